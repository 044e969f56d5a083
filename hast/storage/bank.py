"""The sample bank on disk: one Zarr v3 group, with a manifest beside it. See docs/bank.md.

    bank/
      manifest.json     sha256 of every file of the store
      bank.zarr/        attributes = BankCard
        images          (N, C, H, W) uint8, float16 or float32; a file is a shard
        affine          (N, C, 2) float32, with uint8: pixel = scale * code + offset
        labels          (N,) int64
        difficulty      (N,) float32, 1 - p(y) under the teacher
        bns_gap         (L,) float32, of every BatchNorm call; absent where it was not measured

Nothing is compressed, so every file has exactly the bytes that shape and type say. A shard is a
chunk of `images`, one file: the unit of writing, of resuming and of work for one worker. The same
content gives the same bytes.
"""

import math
import os
import tempfile
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from hast.bank import Bank, BankCard
from hast.errors import InputError
from hast.networks.spec import ModelSpec
from hast.storage.bank_card import read_card
from hast.storage.manifest import sha256_of, verify_manifest
from hast.storage.pixels import decode, identity_map
from hast.storage.untrusted import Layout, check_array, read_attributes

STORE, MANIFEST = "bank.zarr", "manifest.json"
_MAX_BNS_CALLS = 100_000


class StoredBank:
    """A bank whose structure, hashes, labels and small columns are checked and whose images are
    read shard by shard."""

    def __init__(
        self,
        folder: Path,
        *,
        teacher: str | None = None,
        spec: ModelSpec | None = None,
        verify: bool = True,
    ) -> None:
        """
        Args:
            folder: holds `bank.zarr` and `manifest.json`.
            teacher: the fingerprint the bank must have been made for, if any.
            spec: what that teacher expects and answers, if the bank must agree.
            verify: compare all files with the manifest; False leaves that to the caller.

        Raises:
            InputError: something is missing, malformed, too large for what is stored, not finite,
                changed since it was written, or made for another teacher or spec.
        """
        self.folder, store = folder, folder / STORE
        self.card, layouts = _inspect(store, teacher, spec)
        if verify:
            verify_manifest(store, folder / MANIFEST)
        columns = {
            name: np.concatenate(layout.maps())
            for name, layout in layouts.items()
            if name != "images"
        }
        self.shard_size = layouts["images"].rows
        self._images = layouts["images"].maps()
        self.labels: NDArray[np.int64] = columns["labels"]
        self.difficulty: NDArray[np.float32] = columns["difficulty"]
        self.bns_gap: NDArray[np.float32] | None = columns.get("bns_gap")
        self._affine = columns.get(
            "affine", identity_map(len(self.labels), self.card.spec.input_shape[0])
        )
        self._check_columns()

    def __len__(self) -> int:
        return self.card.samples

    @property
    def digest(self) -> str:
        """sha256 of the manifest: the identity of the content."""
        return sha256_of(self.folder / MANIFEST)

    def shards(self) -> list[slice]:
        """The samples of every file of images."""
        return [
            slice(start, min(start + self.shard_size, len(self)))
            for start in range(0, len(self), self.shard_size)
        ]

    def stored(self, rows: slice) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
        """Pixels of a shard as they are stored, (n, C, H, W), and their affine map, (n, C, 2)."""
        stored = self._images[rows.start // self.shard_size]
        if stored.dtype.kind == "f" and not np.isfinite(stored).all():
            raise InputError(f"{self.folder}: images must be finite but hold NaN or infinity")
        return stored, self._affine[rows]

    def images(self, rows: slice) -> NDArray[np.float32]:
        """Normalized pixels, (n, C, H, W)."""
        return decode(*self.stored(rows))

    def check_images(self) -> None:
        """Look at every image, a shard at a time.

        Raises:
            InputError: a shard cannot be read, or a pixel is not finite.
        """
        for rows in self.shards():
            self.images(rows)

    def _check_columns(self) -> None:
        classes = self.card.spec.num_classes
        low, high = self.labels.min(), self.labels.max()
        if low < 0 or high >= classes:
            raise InputError(
                f"{self.folder}: labels must lie in 0..{classes - 1}, they span {low}..{high}"
            )
        if not ((self.difficulty >= 0) & (self.difficulty <= 1)).all():
            raise InputError(f"{self.folder}: difficulties must lie in 0..1")
        largest = np.abs(self._affine.astype(np.float64)) @ (255, 1)  # pixel of the last code
        limit = np.finfo(np.float32).max
        for name, values in (("affine", largest), ("bns_gap", self.bns_gap)):
            if values is not None and not (np.abs(values) <= limit).all():
                raise InputError(f"{self.folder}: {name} must be finite but holds NaN or infinity")


def open_bank(
    folder: Path,
    *,
    teacher: str | None = None,
    spec: ModelSpec | None = None,
    in_memory: bool | None = None,
) -> Bank:
    """Read a bank, trusting nothing in it.

    Args:
        folder: holds `bank.zarr` and `manifest.json`.
        teacher: the fingerprint the bank must have been made for, if any.
        spec: what that teacher expects and answers, if the bank must agree.
        in_memory: False maps the images from an unnamed scratch file beside the bank, so that only
            what is looked at takes memory; by default those are mapped that would take more than a
            quarter of the free memory.

    Raises:
        InputError: something is missing, malformed, too large for what is stored, not finite,
            changed since it was written, or made for another teacher or spec.
    """
    bank = StoredBank(Path(folder), teacher=teacher, spec=spec)
    shape = (len(bank), *bank.card.spec.input_shape)
    images = _room_for(shape, bank.folder.parent, in_memory)
    for rows in bank.shards():
        images[rows] = bank.images(rows)
    return Bank(
        torch.from_numpy(images),
        torch.from_numpy(bank.labels),
        bank.card,
        torch.from_numpy(bank.difficulty),
        None if bank.bns_gap is None else torch.from_numpy(bank.bns_gap),
    )


def _inspect(
    store: Path, teacher: str | None, spec: ModelSpec | None
) -> tuple[BankCard, dict[str, Layout]]:
    """Card and layouts, from the metadata and the sizes of files alone."""
    if not store.is_dir():
        raise InputError(f"{store}: no such bank; run `dvc repro synthesize`")
    card = read_card(store, read_attributes(store))
    if teacher is not None and card.teacher != teacher:
        raise InputError(
            f"{store.parent}: the bank was made for teacher {card.teacher} but the teacher is"
            f" {teacher}; rerun `dvc repro synthesize`"
        )
    if spec is not None:
        card.require_made_for(spec, name=f"{store.parent}: the bank")
    shape = card.spec.input_shape
    layouts = {
        "images": check_array(store / "images", card.dtype, (card.samples, *shape)),
        "labels": check_array(store / "labels", "int64", (card.samples,)),
        "difficulty": check_array(store / "difficulty", "float32", (card.samples,)),
    }
    if card.dtype == "uint8":
        layouts["affine"] = check_array(store / "affine", "float32", (card.samples, shape[0], 2))
    if (store / "bns_gap").is_dir():
        layouts["bns_gap"] = check_array(store / "bns_gap", "float32", (None,))
        if layouts["bns_gap"].shape[0] > _MAX_BNS_CALLS:
            raise InputError(f"{store}: bns_gap has {layouts['bns_gap'].shape[0]} values; hostile")
    known = {f"{array}/{name}" for array, layout in layouts.items() for name in layout.files()}
    known |= {"zarr.json"} | {f"{array}/zarr.json" for array in layouts}
    extra = {p.relative_to(store).as_posix() for p in store.rglob("*") if p.is_file()} - known
    if extra:
        raise InputError(
            f"{store}: {len(extra)} file(s) that are no part of a bank, first {min(extra)}"
        )
    return card, layouts


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
