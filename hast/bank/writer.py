"""Write a bank: shard by shard in a side folder that outlives a kill, then into its place at once.

.partial/bank-<name>/
  bank/          what will be put in its place: bank.zarr and, once it is whole, manifest.json
  done/          labels and scales of every finished shard; written last
  lock           held by the process that makes the bank
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors.numpy import load_file, save
from torch import Tensor

from hast.bank.manifest import write_manifest
from hast.bank.pixels import Stored, decode, encode, slices
from hast.bank.place import check_free, place_bank
from hast.bank.record import BankCard
from hast.bank.stored import MANIFEST, STORE
from hast.errors import InputError
from hast.files.placing import disk_errors, side_folder, write_atomically

_SHARD = 1024  # samples; few files matter more than few bytes
_MIN_SHARDS = 4  # where there are enough batches, so that a run that was killed keeps something


@contextmanager
def new_bank(
    target: Path, card: BankCard, batch_size: int, *, overwrite: bool
) -> Iterator["BankWriter"]:
    """A writer of a bank, to be sealed inside, that is at `target` afterwards.

    Raises:
        InputError: something is at `target`, or the disk is full; what was there is kept.
    """
    check_free(target, overwrite=overwrite)
    with side_folder(target) as side:
        writer = BankWriter(side, card, batch_size)
        yield writer
        writer.publish(target, overwrite=overwrite)


class BankWriter:
    """Builds a bank shard by shard. Several processes may write different shards of one bank."""

    def __init__(
        self, partial_root: Path, card: BankCard, batch_size: int, *, name: str | None = None
    ) -> None:
        """
        Args:
            partial_root: where unfinished banks are kept.
            card: attributes of the bank.
            batch_size: samples that are made together; a shard holds whole batches.
            name: of all that decides the bytes; by default the card's key. A run that was killed
                finds its finished shards again under the same name.
        """
        self._root, self._card = partial_root, card
        self.folder = partial_root / f"bank-{name or card.key()}"
        self._bank = self.folder / "bank"
        self._samples, self._batch_size = card.samples, batch_size
        batches = -(-card.samples // batch_size)
        whole = batch_size * max(1, min(_SHARD // batch_size, batches // _MIN_SHARDS))
        self.shard_size = min(whole, card.samples)  # a larger chunk would be padded with zeros
        with disk_errors(self.folder):
            self._prepare()
            self._images: Any = zarr.open_array(self._bank / STORE / "images", mode="r+")
        # Without the option a shard of zeros would leave no file and never count as finished.
        self._images = self._images.with_config({"write_empty_chunks": True})

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs from making the same bank at the same time.

        Raises:
            InputError: another run is at it.
        """
        try:
            held = FileLock(self.folder / "lock").acquire(blocking=False)
        except Timeout:
            raise InputError(
                f"{self.folder}: another process is making this bank; wait for it, or end it"
            ) from None
        with held:
            for leftover in self._bank.rglob("*.partial"):  # of a write that was killed
                leftover.unlink()
            yield

    def shards(self) -> list[slice]:
        """The samples of every shard."""
        return slices(self._samples, self.shard_size)

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
        """Whether this shard is whole."""
        return all((self.folder / name).is_file() for name in self.shard_files(shard))

    def shard_files(self, shard: slice) -> list[str]:
        """Files of a finished shard, relative to `folder`, in the order in which to copy them."""
        index = shard.start // self.shard_size
        return [f"bank/{STORE}/images/c/{index}/0/0/0", f"done/{index}.safetensors"]

    def write(self, shard: slice, images: Tensor, labels: Tensor) -> None:
        """Write one whole shard.

        Raises:
            InputError: an image is not finite, or the disk is full.
        """
        pixels = encode(images.float().cpu().numpy(), self._card.dtype)
        self.write_stored(shard, pixels, labels.cpu().numpy())

    def write_stored(self, shard: slice, pixels: Stored, labels: NDArray[np.int64]) -> None:
        """As `write`, with the pixels as `encode` made them."""
        stored, affine = pixels
        columns: dict[str, NDArray[Any]] = {
            "labels": np.ascontiguousarray(labels),
            "affine": np.ascontiguousarray(affine),
        }
        with disk_errors(self.folder):
            self._images[shard] = stored
            write_atomically(self._column_file(shard), save(columns))

    def read(self, shard: slice) -> tuple[Tensor, Tensor]:
        """Images and labels of a finished shard, as a reader of the bank will get them."""
        columns = load_file(self._column_file(shard))
        images = decode(self._images[shard], columns["affine"])
        return images, torch.from_numpy(columns["labels"])

    def seal(self, difficulty: Tensor, bns_gap: Tensor | None = None) -> Path:
        """Write what belongs to the whole bank and the manifest.

        Args:
            difficulty: (N,) under the teacher, of the images as `read` gives them.
            bns_gap: (L,) of every BatchNorm call.

        Returns:
            The folder of the finished bank, not yet in its place.
        """
        assert not self.missing_shards()
        with disk_errors(self.folder):
            parts = [load_file(self._column_file(shard)) for shard in self.shards()]
            columns = {"labels": np.concatenate([part["labels"] for part in parts])}
            if self._card.dtype == "uint8":
                columns["affine"] = np.concatenate([part["affine"] for part in parts])
            columns["difficulty"] = difficulty.float().cpu().numpy()
            if bns_gap is not None:
                columns["bns_gap"] = bns_gap.float().cpu().numpy()
            group = zarr.open_group(self._bank / STORE, mode="r+")
            for name, values in columns.items():
                options: Any = {"config": {"write_empty_chunks": True}, "overwrite": True}
                group.create_array(
                    name, data=values, chunks=values.shape, compressors=None, **options
                )
            write_manifest(self._bank / STORE, self._bank / MANIFEST)
        return self._bank

    def publish(self, target: Path, *, overwrite: bool = False) -> None:
        """Put the sealed bank at `target`. The finished shards stay, so that a run that is killed
        before anybody has noted the result loses nothing; other finished banks that were left go.

        Args:
            target: where it shall be.
            overwrite: another bank may be there.

        Raises:
            InputError: something is at `target`, or the disk is full; what was there is kept.
        """
        place_bank(self._bank, target, overwrite=overwrite)
        for other in self._root.glob("bank-*"):
            if other != self.folder and (other / "bank" / MANIFEST).is_file():
                shutil.rmtree(other, ignore_errors=True)

    def _column_file(self, shard: slice) -> Path:
        return self.folder / self.shard_files(shard)[1]

    def _prepare(self) -> None:
        store, shape = self._bank / STORE, self._card.spec.input_shape
        if not (store / "images/zarr.json").is_file():
            shutil.rmtree(self.folder, ignore_errors=True)
            attributes = self._card.model_dump(mode="json")
            group = zarr.create_group(store, zarr_format=3, attributes=attributes)
            group.create_array(
                "images",
                shape=(self._samples, *shape),
                chunks=(self.shard_size, *shape),
                dtype=self._card.dtype,
                compressors=None,
            )
