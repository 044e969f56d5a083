"""Score the bank: how hard is every sample for the teacher and for the untrained student."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hast.math.hardness import sample_difficulty
from hast.runtime import device_of, loop

SCORED_TOGETHER = 256


class Hardness(NamedTuple):
    """One value a sample, each of shape (N,)."""

    difficulty: Tensor  # 1 - p(y) under the teacher, in [0, 1]
    student_difficulty: Tensor  # 1 - p(y) under the calibrated, untrained student


@loop
def score(
    teacher: nn.Module, student: nn.Module, images: Tensor, labels: Tensor
) -> Iterator[Hardness]:
    """Score samples batch by batch, in order.

    Args:
        teacher: frozen, eval mode.
        student: calibrated, before fine-tuning.
        images: (N, C, H, W), normalized pixels.
        labels: (N,).
    """
    device = device_of(teacher)
    pairs = zip(images.split(SCORED_TOGETHER), labels.split(SCORED_TOGETHER), strict=True)
    for x, y in ((x.to(device), y.to(device)) for x, y in pairs):
        with torch.no_grad():
            scores = Hardness(sample_difficulty(teacher(x), y), sample_difficulty(student(x), y))
        yield scores
