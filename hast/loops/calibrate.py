"""Set the student's activation ranges on images of the generator."""

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor, nn

from hast.config import Section
from hast.networks.generator import Generator
from hast.networks.student import set_mode
from hast.runtime import device_of, seeded


class CalibrationConfig(Section):
    """How the activation ranges are found."""

    batches: int = Field(default=100, ge=1)
    batch_size: int = Field(default=64, ge=1)
    range_momentum: float = Field(default=0.9, ge=0, lt=1)
    seed: int = 0


def calibration_batches(generator: Generator, config: CalibrationConfig) -> Iterator[Tensor]:
    """Images (B, C, H, W) of random classes, on the generator's device."""
    device = device_of(generator)
    num_classes = generator.embedding.num_embeddings
    for index in range(config.batches):
        random = seeded(config.seed, "calibrate", index)
        labels = torch.randint(num_classes, (config.batch_size,), generator=random).to(device)
        with torch.no_grad():
            images = generator.sample(labels, random)
        yield images  # outside: a suspended no_grad would reach whoever consumes this


def calibrate(student: nn.Module, batches: Iterator[Tensor]) -> Iterator[None]:
    """Observe every batch, then freeze the ranges.

    While it observes, the student computes with quantized weights and exact activations.
    """
    set_mode(student, "observe")
    for images in batches:
        with torch.no_grad():
            student(images)
        yield
    set_mode(student, "quantize")
