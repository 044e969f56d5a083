"""Score the bank: how hard is every sample for the teacher and for the untrained student."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from hast.config import Section
from hast.engine import Images
from hast.math.hardness import entropy, gradient_norm, sample_difficulty
from hast.runtime import device_of, loop

SCORED_TOGETHER = 256


class ScoreConfig(Section):
    bins: int = Field(default=20, ge=2)  # of the difficulty histogram over [0, 1]
    hard_above: float = Field(default=0.5, ge=0, le=1)  # a sample counts as hard from here


class Hardness(NamedTuple):
    """One value a sample, each of shape (N,)."""

    difficulty: Tensor  # 1 - p(y) under the teacher, in [0, 1]
    gradient_norm: Tensor  # of the teacher's cross-entropy by its logits, in [0, sqrt 2]
    entropy: Tensor  # of the teacher's prediction, nats
    student_difficulty: Tensor  # 1 - p(y) under the calibrated, untrained student


@loop
def score(
    teacher: nn.Module, student: nn.Module, images: Images, labels: Tensor
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
            logits = teacher(x)
            scores = Hardness(
                sample_difficulty(logits, y),
                gradient_norm(logits, y),
                entropy(logits),
                sample_difficulty(student(x), y),
            )
        yield scores
