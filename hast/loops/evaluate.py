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
    correct_in_5: int  # the label is among the first five answers
    agreeing: int  # same first answer as the reference

    def merge(self, other: "Evaluation") -> "Evaluation":
        return Evaluation(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def top1(self) -> float:
        """Accuracy in [0, 1]."""
        return self.correct / self.samples

    @property
    def top5(self) -> float:
        """Share of labels among the first five answers in [0, 1]."""
        return self.correct_in_5 / self.samples

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
    totals = dict.fromkeys(networks, Evaluation(0, 0, 0, 0))
    for images, labels in batches:
        x, y = images.to(device), labels.to(device)
        with torch.no_grad():
            expected = reference(x)
            for name, network in networks.items():
                logits = expected if network is reference else network(x)
                totals[name] = totals[name].merge(_count(logits, expected, y))
        yield totals


def _count(logits: Tensor, expected: Tensor, labels: Tensor) -> Evaluation:
    # argmax on both sides: topk breaks ties another way, and a network must agree with itself.
    answer = logits.argmax(dim=1)
    first_five = logits.topk(min(5, logits.shape[1]), dim=1).indices
    in_five = (first_five == labels.unsqueeze(1)).any(dim=1) | (answer == labels)
    return Evaluation(
        samples=len(labels),
        correct=int((answer == labels).sum()),
        correct_in_5=int(in_five.sum()),
        agreeing=int((answer == expected.argmax(dim=1)).sum()),
    )
