"""In which order samples are trained on."""

from collections.abc import Iterator

import torch
from torch import Tensor


class BatchOrder:
    """Index batches without end: shuffled epochs, or draws weighted by difficulty."""

    def __init__(
        self, samples: int, size: int, weights: Tensor | None, random: torch.Generator
    ) -> None:
        """
        Args:
            samples: N of the bank.
            size: of a batch.
            weights: (N,) to draw by; None shuffles.
            random: shared with what else is random in a step.
        """
        self._samples, self._size = samples, min(size, samples)
        self._weights, self._random = weights, random
        self.epoch = torch.empty(0, dtype=torch.int64)  # what is left of the shuffled samples

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        if self._weights is not None:
            return torch.multinomial(
                self._weights, self._size, replacement=True, generator=self._random
            )
        if len(self.epoch) < self._size:
            self.epoch = torch.randperm(self._samples, generator=self._random)
        batch, self.epoch = self.epoch[: self._size], self.epoch[self._size :]
        return batch
