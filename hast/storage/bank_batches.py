"""Read a bank while training: a dataset of single samples, and whole batches in a seeded order.

What is held are pixels as they are stored; 8-bit ones are decoded batch by batch. A bank that does
not fit is read a few shards at a time: their order is shuffled, and so are the samples among them.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hast.errors import InputError
from hast.runtime import seeded
from hast.storage.bank import StoredBank
from hast.storage.mirror import MirroredBank

Sampling = Literal["uniform", "difficulty"]
_CACHE = Path("~/.cache/hast/banks")
_EASIEST = 1e-3  # weight of the easiest samples, so that they stay possible
_FORMATS = {"uint8": 1, "float16": 2, "float32": 4}


def open_stored(
    source: Path | str, *, teacher: str | None = None, cache: Path | None = None,
    cache_bytes: int = 4 << 30,
) -> StoredBank:  # fmt: skip
    """A bank in a folder, or behind a URL with a cache of bounded size."""
    if "://" not in str(source):
        return StoredBank(Path(source), teacher=teacher)
    folder = (cache or _CACHE).expanduser()
    return MirroredBank(str(source), folder, max_bytes=cache_bytes, teacher=teacher)


class BankDataset(Dataset[tuple[Tensor, Tensor]]):
    """Samples of a bank: image (C, H, W) float32, normalized pixels, and label.

    `dataset.batch(index)` gives many at once, much faster than a loader that stacks single ones.
    """

    def __init__(self, bank: StoredBank, *, held_shards: int | None = None) -> None:
        """
        Args:
            bank: see `open_stored`.
            held_shards: how many to hold in memory; by default all where they take less than a
                quarter of the free memory, else 4.

        Raises:
            InputError: none shall be held.
        """
        if held_shards is not None and held_shards < 1:
            raise InputError(f"held_shards must be at least 1, got {held_shards}")
        self.bank = bank
        self.shards = bank.shards()
        size = np.prod(bank.card.spec.input_shape) * len(bank) * _FORMATS[bank.card.dtype]
        fits = size < psutil.virtual_memory().available / 4
        self.held_shards = held_shards or (len(self.shards) if fits else 4)
        self.labels = torch.from_numpy(bank.labels)
        self._held: OrderedDict[int, tuple[Tensor, Tensor]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.bank)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = self.batch([index])
        return images[0], labels[0]

    def __getitems__(self, index: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        return list(zip(*self.batch(index), strict=True))

    def batch(self, index: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) and labels (B,) of the given samples; negative ones count from the
        end.

        Raises:
            IndexError: there is no such sample.
        """
        chosen, samples = torch.as_tensor(index, dtype=torch.int64), len(self)
        if ((chosen < -samples) | (chosen >= samples)).any():
            raise IndexError(f"samples must lie in {-samples}..{samples - 1}, got {index}")
        chosen = chosen % samples
        shard_of = chosen // self.bank.shard_size
        images = torch.empty(len(chosen), *self.bank.card.spec.input_shape)
        for number in shard_of.unique().tolist():
            here = (shard_of == number).nonzero().squeeze(1)
            stored, affine = self._shard(number)
            rows = chosen[here] - number * self.bank.shard_size
            pixels = stored[rows].float()
            if stored.dtype == torch.uint8:
                scale, offset = affine[rows].view(len(rows), -1, 1, 1, 2).unbind(-1)
                pixels.mul_(scale).add_(offset)
            images[here] = pixels
        return images, self.labels[chosen]

    def _shard(self, number: int) -> tuple[Tensor, Tensor]:
        if number not in self._held:
            stored, affine = self.bank.stored(self.shards[number])
            self._held[number] = (torch.from_numpy(stored), torch.from_numpy(affine.copy()))
            while len(self._held) > self.held_shards:
                self._held.popitem(last=False)
        self._held.move_to_end(number)
        return self._held[number]


class BankBatches:
    """Whole batches without end: images (B, C, H, W) float32 and labels (B,).

    The order depends on the bank, the seed, these options and `held_shards` of the dataset alone.
    """

    def __init__(
        self,
        dataset: BankDataset,
        *,
        batch_size: int,
        seed: int = 0,
        sampling: Sampling = "uniform",
        balanced: bool = False,
    ) -> None:
        """
        Args:
            dataset: of the bank.
            batch_size: B; a rest that is smaller is left out.
            seed: of the order.
            sampling: `uniform` shows every sample once in an epoch; `difficulty` draws with
                replacement, hard samples more often.
            balanced: draw every class equally often, with replacement.

        Raises:
            InputError: a batch is larger than the bank, or the sampling is not known.
        """
        if sampling not in get_args(Sampling):
            known = " or ".join(get_args(Sampling))
            raise InputError(f"sampling must be {known}, got {sampling!r}")
        if not 1 <= batch_size <= len(dataset):
            raise InputError(f"batch_size must lie in 1..{len(dataset)}, got {batch_size}")
        self._dataset, self._size, self._seed = dataset, batch_size, seed
        self._weights = self._weigh(sampling, balanced)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = 0
        while True:
            yield from self.epoch(epoch)
            epoch += 1

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch: as many samples as the bank has."""
        random = seeded(self._seed, "bank", number)
        rest = torch.empty(0, dtype=torch.int64)
        for window in self._windows(random):
            rest = torch.cat([rest, self._draw(window, random)])
            *whole, rest = rest.split(self._size) if len(rest) else (rest,)
            if len(rest) == self._size:
                whole, rest = [*whole, rest], rest[:0]
            for index in whole:
                yield self._dataset.batch(index)

    def _windows(self, random: torch.Generator) -> Iterator[Tensor]:
        """Samples that are shuffled among each other: of as many shards as are held."""
        shards = self._dataset.shards
        if self._dataset.held_shards >= len(shards):
            yield torch.arange(len(self._dataset))
            return
        order = torch.randperm(len(shards), generator=random)
        # One place is kept for the shard that a batch across two windows still needs.
        for part in order.split(max(1, self._dataset.held_shards - 1)):
            yield torch.cat([torch.arange(shards[i].start, shards[i].stop) for i in part.tolist()])

    def _draw(self, window: Tensor, random: torch.Generator) -> Tensor:
        if self._weights is None:
            return window[torch.randperm(len(window), generator=random)]
        weights = self._weights[window]
        count = round(len(self._weights) * float(weights.sum() / self._weights.sum()))
        if not count:
            return window[:0]
        return window[torch.multinomial(weights, count, replacement=True, generator=random)]

    def _weigh(self, sampling: Sampling, balanced: bool) -> Tensor | None:
        """A weight for each sample, (N,); None where all are shown once."""
        if sampling == "uniform" and not balanced:
            return None
        weights = torch.ones(len(self._dataset), dtype=torch.float64)
        if sampling == "difficulty":
            weights = torch.from_numpy(self._dataset.bank.difficulty).double().clamp(min=_EASIEST)
        if balanced:
            labels = self._dataset.labels
            weights = weights / torch.bincount(labels, weights)[labels]
        return weights
