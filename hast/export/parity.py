"""How well an exported network agrees with the student it came from.

A single rounded value may fall to the neighbouring code where two programs add in another order,
and in a deep network that travels. So agreement is measured on the answers: the class, and how far
the logits are apart.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from hast.export.onnx_packages import open_in

_BATCH_SIZE = 64

Predict = Callable[[Tensor], Tensor]  # images (N, C, H, W) to logits (N, K)


class Parity(NamedTuple):
    """Agreement of two programs on the same images."""

    samples: int
    agreement: float  # share of equal first answers, in [0, 1]
    max_difference: float  # of logits
    mean_difference: float  # of logits
    logit_spread: float  # standard deviation of the student's logits, to compare with
    top1: float | None = None  # share of right answers of the exported program, in [0, 1]


def compare(logits: Tensor, others: Tensor, labels: Tensor | None = None) -> Parity:
    """Compare the student's logits (N, K) with those of what was exported, and, where labels (N,)
    are known, that with them."""
    difference = (logits - others).abs()
    return Parity(
        samples=len(logits),
        agreement=(logits.argmax(1) == others.argmax(1)).float().mean().item(),
        max_difference=difference.max().item(),
        mean_difference=difference.mean().item(),
        logit_spread=logits.std().item(),
        top1=None if labels is None else (others.argmax(1) == labels).float().mean().item(),
    )


def logits_of(predict: Predict, images: Tensor) -> Tensor:
    """Logits (N, K) of images (N, C, H, W), batch by batch."""
    with torch.no_grad():
        return torch.cat([predict(batch) for batch in images.split(_BATCH_SIZE)])


def predictor(path: Path, program: str = "onnxruntime") -> Predict:
    """Logits of a file in `torch`, or of an ONNX file in a program that `open_in` names."""
    if program == "torch":
        module: Predict = torch.export.load(path).module()
        return module
    compute = open_in(program, path)
    return lambda images: torch.from_numpy(*compute(images.numpy()))
