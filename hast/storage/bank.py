"""The sample bank: one Zarr v3 group of images and labels, with a manifest beside it.

    bank/
      manifest.json     sha256 of every file of the store
      bank.zarr/        attributes = BankCard; images (N, C, H, W) float32; labels (N,) int64

A chunk is the unit of reading, a shard the unit of writing and of resuming. The same content gives
the same bytes.
"""

import json
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import zarr
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor
from zarr.codecs import ZstdCodec

from hast.bank import FORMAT, VERSION, Bank, BankCard
from hast.errors import InputError
from hast.storage.untrusted import check_store, verify_manifest, write_manifest

_STORE, _MANIFEST = "bank.zarr", "manifest.json"
_MAX_CHUNK, _SHARD = 64, 1024  # samples; few files matter more than few bytes
_MIN_SHARDS = 4  # where there are enough batches, so that a run that was killed keeps something


class BankWriter:
    """Builds a bank shard by shard in a side folder and moves it into place when it is whole.

    The side folder is named after the card, so a run that was killed finds its finished shards
    again, and a run with other parameters never does.
    """

    def __init__(
        self, partial_root: Path, card: BankCard, batch_size: int, *, join: bool = False
    ) -> None:
        """
        Args:
            partial_root: where unfinished banks are kept.
            card: attributes of the bank.
            batch_size: samples that are made together; a shard holds whole batches.
            join: another process has prepared the folder, and others may be writing there.
        """
        self.folder = partial_root / f"bank-{card.key()}"
        self._samples, self._batch_size = card.samples, batch_size
        chunk = max(n for n in range(1, _MAX_CHUNK + 1) if batch_size % n == 0)
        batches = -(-card.samples // batch_size)
        self.shard_size = batch_size * max(1, min(_SHARD // batch_size, batches // _MIN_SHARDS))
        if not join:
            self._prepare(card, chunk)
        self._arrays = self._open()

    def shards(self) -> list[slice]:
        """The samples of every shard."""
        return [
            slice(start, min(start + self.shard_size, self._samples))
            for start in range(0, self._samples, self.shard_size)
        ]

    def batches(self, shard: slice) -> range:
        """Indices of the batches that a shard holds."""
        return range(shard.start // self._batch_size, -(-shard.stop // self._batch_size))

    def shard_of(self, batch: int) -> slice:
        """The shard that holds a batch."""
        return self.shards()[batch * self._batch_size // self.shard_size]

    def missing_shards(self) -> list[slice]:
        """The shards that no earlier run has finished."""
        return [shard for shard in self.shards() if not self.is_finished(shard)]

    def is_finished(self, shard: slice) -> bool:
        """Whether an earlier run wrote this shard. Labels are written last."""
        index = shard.start // self.shard_size
        return (self.folder / _STORE / "labels" / "c" / str(index)).is_file()

    def shard_files(self, shard: slice) -> list[Path]:
        """Files of a finished shard, relative to `folder`, in the order in which to copy them."""
        index = str(shard.start // self.shard_size)
        parts = sorted((self.folder / _STORE).glob(f"*/c/{index}"))
        files = [f for p in parts for f in ([p] if p.is_file() else sorted(p.rglob("*")))]
        return [f.relative_to(self.folder) for f in files if f.is_file()]

    def write(self, shard: slice, images: Tensor, labels: Tensor) -> None:
        """Write one whole shard."""
        self._arrays["images"][shard] = images.cpu().numpy()
        self._arrays["labels"][shard] = labels.cpu().numpy()

    def seal(self) -> Path:
        """Write the manifest; returns the folder of the finished bank, not yet in its place."""
        assert not self.missing_shards()
        write_manifest(self.folder / _STORE, self.folder / _MANIFEST)
        return self.folder

    def publish(self, target: Path) -> None:
        """Move the sealed bank to `target`, replacing what is there."""
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            shutil.rmtree(target)
        shutil.move(self.folder, target)

    def _prepare(self, card: BankCard, chunk: int) -> None:
        store = self.folder / _STORE
        if not all((store / n / "zarr.json").is_file() for n in ("images", "labels")):
            shutil.rmtree(self.folder, ignore_errors=True)
            # Attributes go through JSON so that tuples and models become plain lists and dicts.
            group = zarr.create_group(
                store, zarr_format=3, attributes=json.loads(card.model_dump_json())
            )
            for name, shape, dtype in (
                ("images", card.spec.input_shape, "float32"),
                ("labels", (), "int64"),
            ):
                group.create_array(
                    name,
                    shape=(card.samples, *shape),
                    chunks=(chunk, *shape),
                    shards=(self.shard_size, *shape),
                    dtype=dtype,
                    compressors=[ZstdCodec(level=3, checksum=True)],
                )
        for leftover in store.rglob("*.partial"):  # of a write that was killed
            leftover.unlink()

    def _open(self) -> dict[str, Any]:
        # Without the option a shard of zeros would leave no file and never count as finished.
        store = self.folder / _STORE
        arrays = {name: zarr.open_array(store / name, mode="r+") for name in ("images", "labels")}
        return {n: a.with_config({"write_empty_chunks": True}) for n, a in arrays.items()}


def open_bank(folder: Path, *, teacher: str | None = None, in_memory: bool | None = None) -> Bank:
    """Read a bank, trusting nothing in it.

    Args:
        folder: holds `bank.zarr` and `manifest.json`.
        teacher: the fingerprint the bank must have been made for, if any.
        in_memory: False maps the images from an unnamed scratch file beside the bank, so that only
            what is looked at takes memory; by default those are mapped that would take more than a
            quarter of the free memory.

    Raises:
        InputError: something is missing, malformed, too large for what is stored, not finite,
            changed since it was written, or made for another teacher.
    """
    store = folder / _STORE
    if not store.is_dir():
        raise InputError(f"{store}: no such bank; run `dvc repro synthesize`")
    attributes = check_store(store, {"images": ("float32", 4), "labels": ("int64", 1)})
    card = _read_card(store, attributes)
    if teacher is not None and card.teacher != teacher:
        raise InputError(
            f"{folder}: the bank was made for teacher {card.teacher} but the teacher is {teacher};"
            " rerun `dvc repro synthesize`"
        )
    verify_manifest(store, folder / _MANIFEST)
    try:
        group: Any = zarr.open_group(store, mode="r", zarr_format=3)
        stored, labels = group["images"], np.asarray(group["labels"])
        _check_shapes(folder, card, stored.shape, labels)
        images = _room_for(stored.shape, folder.parent, in_memory)
        size = (stored.shards or stored.chunks)[0]
        for shard in (slice(start, start + size) for start in range(0, len(labels), size)):
            images[shard] = stored[shard]
            if not np.isfinite(images[shard]).all():
                raise InputError(f"{folder}: images must be finite but hold NaN or infinity")
    except (InputError, MemoryError):
        raise
    except Exception as error:  # Zarr raises nearly anything on malformed shards
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{store}: cannot be read ({reason})") from error
    return Bank(torch.from_numpy(images), torch.from_numpy(labels), card)


def _read_card(store: Path, attributes: dict[str, Any]) -> BankCard:
    if attributes.get("format") != FORMAT:
        raise InputError(f"{store}: not a {FORMAT}; its format is {attributes.get('format')!r}")
    if attributes.get("version") != VERSION:
        raise InputError(
            f"{store}: bank version {attributes.get('version')!r} is not known; this program reads"
            f" version {VERSION}; update it"
        )
    try:
        return BankCard.model_validate(attributes)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{store}: attribute {first['loc']}: {first['msg']}") from None


def _room_for(shape: tuple[int, ...], scratch: Path, in_memory: bool | None) -> NDArray[np.float32]:
    size = math.prod(shape) * 4
    if in_memory is None:
        in_memory = size < psutil.virtual_memory().available / 4
    if in_memory:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile(dir=scratch) as file:  # nameless: gone however the process ends
        try:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk would kill the mapping later
        except OSError as error:
            raise InputError(
                f"{scratch}: no room for {size / 1e9:.1f} GB of images to map ({error.strerror});"
                " free some disk or memory"
            ) from None
        return np.memmap(file, np.float32, "r+", shape=shape)


def _check_shapes(
    folder: Path, card: BankCard, images: tuple[int, ...], labels: NDArray[Any]
) -> None:
    expected = (card.samples, *card.spec.input_shape)
    if images != expected or labels.shape != expected[:1]:
        raise InputError(
            f"{folder}: the card promises images of shape {expected} but the store holds images"
            f" {images} and labels {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= card.spec.num_classes:
        raise InputError(
            f"{folder}: labels must lie in 0..{card.spec.num_classes - 1}, they span"
            f" {labels.min()}..{labels.max()}"
        )
