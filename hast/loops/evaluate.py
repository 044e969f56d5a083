"""Measure networks on labelled images. In fp32, in one pass, without choosing anything."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hast.runtime import device_of


class Evaluation(NamedTuple):
    """Counts of one network."""

    samples: int
    correct: int
    agreeing: int  # same first answer as the reference

    def merge(self, other: "Evaluation") -> "Evaluation":
        return Evaluation(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def top1(self) -> float:
        """Accuracy in [0, 1]."""
        return self.correct / self.samples

    @property
    def agreement(self) -> float:
        """Share of equal first answers in [0, 1]."""
        return self.agreeing / self.samples


def evaluate(
    networks: Mapping[str, nn.Module],
    reference: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
) -> Iterator[dict[str, Evaluation]]:
    """Evaluate several networks side by side; yields the counts so far after every batch.

    Args:
        networks: by name, all on the reference's device, in eval mode.
        reference: the teacher, to which agreement is measured.
        batches: normalized images (N, C, H, W) and labels (N,).
    """
    device = device_of(reference)
    totals = dict.fromkeys(networks, Evaluation(0, 0, 0))
    with torch.no_grad():
        for images, labels in batches:
            x, y = images.to(device), labels.to(device)
            expected = reference(x).argmax(dim=1)
            for name, network in networks.items():
                answer = network(x).argmax(dim=1)
                counts = Evaluation(
                    len(y), int((answer == y).sum()), int((answer == expected).sum())
                )
                totals[name] = totals[name].merge(counts)
            yield totals
