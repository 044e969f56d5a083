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

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hast.bank.manifest import verify_manifest
from hast.bank.pixels import Pixels, identity_map, slices
from hast.bank.record import Bank, BankCard
from hast.bank.untrusted import Layout, check_array, read_card
from hast.config.spec import ModelSpec
from hast.errors import InputError
from hast.files.placing import sha256_of

STORE, MANIFEST = "bank.zarr", "manifest.json"
_MAX_BNS_CALLS = 100_000


class StoredBank:
    """A bank in its files, of which everything was checked. Its images are mapped read-only and
    decoded as they are taken: memory holds what is used, and the system may have that back.

    Attributes:
        folder: where it is.
        card: where it comes from.
        images: (N, C, H, W), see `Pixels`.
        labels: (N,) int64.
        difficulty: (N,) float32, 1 - p(y) under the teacher.
        bns_gap: (L,) float32, of every BatchNorm call; None where it was not measured.
        shard_size: samples in a file of images.
    """

    def __init__(
        self,
        folder: Path | str,
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
            verify: compare all files with the manifest, and look at every value; False where
                that has just been done.

        Raises:
            InputError: something is missing, malformed, of another size than its metadata say, not
                finite, changed since it was written, or made for another teacher or spec.
        """
        self.folder = Path(folder)
        store = self.folder / STORE
        self.card, layouts = _inspect(store, teacher, spec)
        if verify:
            verify_manifest(store, self.folder / MANIFEST)
        images = layouts.pop("images")
        columns = {n: torch.from_numpy(np.concatenate(a.maps())) for n, a in layouts.items()}
        self.labels, self.difficulty = columns["labels"], columns["difficulty"]
        self.bns_gap = columns.get("bns_gap")
        identity = identity_map(len(self.labels), self.card.spec.input_shape[0])
        self._affine = columns.get("affine", torch.from_numpy(identity))
        self.shard_size = images.rows
        self._files = images.maps()
        self.images = Pixels(self._files, self._affine)
        if verify:
            self._check_values()

    def __len__(self) -> int:
        return self.card.samples

    @property
    def digest(self) -> str:
        """sha256 of the manifest: the identity of the content."""
        return sha256_of(self.folder / MANIFEST)

    def shards(self) -> list[slice]:
        """The samples of every file of images."""
        return slices(len(self), self.shard_size)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images, decoded when they are asked for, and labels."""
        yield from zip(self.images.split(size), self.labels.split(size), strict=True)

    def _check_values(self) -> None:
        classes = self.card.spec.num_classes
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= classes:
            raise InputError(
                f"{self.folder}: labels must lie in 0..{classes - 1}, they span {low}..{high}"
            )
        if not ((self.difficulty >= 0) & (self.difficulty <= 1)).all():
            raise InputError(f"{self.folder}: difficulties must lie in 0..1")
        largest = self._affine.double().abs() @ torch.tensor([255, 1]).double()
        finite = {
            "affine": largest.float().isfinite().all(),  # also pixels beyond float32
            "bns_gap": self.bns_gap is None or self.bns_gap.isfinite().all(),
            "images": self.card.dtype == "uint8" or all(np.isfinite(f).all() for f in self._files),
        }
        for name, is_finite in finite.items():
            if not is_finite:
                raise InputError(f"{self.folder}: {name} must be finite but holds NaN or infinity")


def open_bank(
    folder: Path | str, *, teacher: str | None = None, spec: ModelSpec | None = None
) -> Bank:
    """Read a bank into memory, trusting nothing in it.

    Args:
        folder: holds `bank.zarr` and `manifest.json`.
        teacher: the fingerprint the bank must have been made for, if any.
        spec: what that teacher expects and answers, if the bank must agree.

    Raises:
        InputError: something is missing, malformed, not finite, changed since it was written, or
            made for another teacher or spec.
    """
    bank = StoredBank(folder, teacher=teacher, spec=spec)
    return Bank(bank.images[:], bank.labels, bank.card, bank.difficulty, bank.bns_gap)


def _inspect(
    store: Path, teacher: str | None, spec: ModelSpec | None
) -> tuple[BankCard, dict[str, Layout]]:
    """Card and layouts, from the metadata and the sizes of files alone."""
    if not store.is_dir():
        raise InputError(f"{store}: no such bank; run `dvc repro synthesize`")
    card = read_card(store)
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
