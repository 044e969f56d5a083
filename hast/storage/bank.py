"""The sample bank on disk: one Zarr v3 group, with a manifest beside it. See docs/bank.md.

    bank/
      manifest.json     sha256 of every file of the store
      bank.zarr/        attributes = BankCard
        images          (N, C, H, W) uint8, float16 or float32; a file holds a shard
        affine          (N, C, 2) float32, with uint8: pixel = scale * code + offset
        labels          (N,) int64
        difficulty      (N,) float32, 1 - p(y) under the teacher
        bns_gap         (L,) float32, of every BatchNorm call; absent where it was not measured

A chunk is the unit of reading, a shard the unit of writing and of resuming. The same content gives
the same bytes.
"""

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import zarr
from numpy.typing import NDArray

from hast.bank import Bank, BankCard
from hast.errors import InputError
from hast.networks.spec import ModelSpec
from hast.storage.bank_card import read_card
from hast.storage.chunks import check_chunks
from hast.storage.manifest import sha256_of, verify_manifest
from hast.storage.pixels import decode, identity_map
from hast.storage.untrusted import Layout, Rule, Structure, check_store

STORE, MANIFEST = "bank.zarr", "manifest.json"
MAX_CHUNK = 64  # samples
_RULES = {
    "images": Rule(("uint8", "float16", "float32"), 4),
    "affine": Rule(("float32",), 3),
    "labels": Rule(("int64",), 1),
    "difficulty": Rule(("float32",), 1),
    "bns_gap": Rule(("float32",), 1),
}
_OPTIONAL = ("affine", "bns_gap")
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
            for name, layout in layouts.items():
                check_chunks(store / name, layout)
        self.shard_size = layouts["images"].rows_of_file
        with _readable(store):
            group: Any = zarr.open_group(store, mode="r", zarr_format=3)
            self._images = group["images"]
            self.labels: NDArray[np.int64] = np.asarray(group["labels"])
            self.difficulty: NDArray[np.float32] = np.asarray(group["difficulty"])
            self.bns_gap = np.asarray(group["bns_gap"]) if "bns_gap" in layouts else None
            self._affine = (
                np.asarray(group["affine"])
                if "affine" in layouts
                else identity_map(len(self.labels), self.card.spec.input_shape[0])
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
        """Pixels as they are stored, (n, C, H, W), and their affine map, (n, C, 2)."""
        with _readable(self.folder / STORE):
            stored = self._images[rows]
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
    """Card and layouts, from the metadata files alone."""
    if not store.is_dir():
        raise InputError(f"{store}: no such bank; run `dvc repro synthesize`")
    structure = check_store(store, _RULES, _OPTIONAL)
    card = read_card(store, structure.attributes)
    if teacher is not None and card.teacher != teacher:
        raise InputError(
            f"{store.parent}: the bank was made for teacher {card.teacher} but the teacher is"
            f" {teacher}; rerun `dvc repro synthesize`"
        )
    if spec is not None:
        card.require_made_for(spec, name=f"{store.parent}: the bank")
    _check_layouts(store, card, structure)
    return card, structure.arrays


def _check_layouts(store: Path, card: BankCard, structure: Structure) -> None:
    layouts = structure.arrays
    channels = card.spec.input_shape[0]
    expected = {
        "images": (card.samples, *card.spec.input_shape),
        "affine": (card.samples, channels, 2),
        "labels": (card.samples,),
        "difficulty": (card.samples,),
    }
    for name, shape in expected.items():
        if name in layouts and layouts[name].shape != shape:
            raise InputError(
                f"{store}: the card promises {name} of shape {shape} but the store holds"
                f" {layouts[name].shape}"
            )
    if layouts["images"].dtype != card.dtype:
        raise InputError(
            f"{store}: the card promises {card.dtype} but images are {layouts['images'].dtype}"
        )
    if ("affine" in layouts) != (card.dtype == "uint8"):
        raise InputError(f"{store}: uint8 images, and no others, must have an affine map")
    if layouts["images"].rows_of_chunk > MAX_CHUNK:
        raise InputError(
            f"{store}: chunks must hold at most {MAX_CHUNK} images, got"
            f" {layouts['images'].rows_of_chunk}"
        )
    if "bns_gap" in layouts and layouts["bns_gap"].shape[0] > _MAX_BNS_CALLS:
        raise InputError(f"{store}: bns_gap has {layouts['bns_gap'].shape[0]} values; hostile")
    files = {f"{array}/{name}" for array, lay in layouts.items() for name in lay.files()}
    known = files | {"zarr.json"} | {f"{array}/zarr.json" for array in layouts}
    extra = {p.relative_to(store).as_posix() for p in store.rglob("*") if p.is_file()} - known
    if extra:
        raise InputError(
            f"{store}: {len(extra)} file(s) that are no part of a bank, first {min(extra)}"
        )


@contextmanager
def _readable(store: Path) -> Iterator[None]:
    """Zarr raises nearly anything on malformed shards."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{store}: cannot be read ({reason})") from error


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
