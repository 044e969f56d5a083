"""Train the built-in default teacher. Any other teacher comes trained."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hast.config import Section
from hast.loops.checks import check_finite
from hast.math.augmentation import random_resized_crop
from hast.networks.batch_norm import freeze
from hast.runtime import device_of, loop, seeded


class TrainingConfig(Section):
    """Ordinary supervised training: SGD with momentum and a one-cycle learning rate."""

    epochs: int = Field(default=40, ge=1)
    """Passes over the training images."""
    batch_size: int = Field(default=64, ge=2)
    """Images in a step."""
    learning_rate: float = Field(default=0.1, gt=0)
    """The peak of the cycle."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Of the optimizer."""
    min_crop_scale: float = Field(default=0.6, gt=0, le=1)
    """Smallest share of the area that a random crop keeps."""
    seed: int = 0
    """Of all random numbers of the stage."""


class TrainingStep(NamedTuple):
    loss: Tensor  # cross-entropy of the batch, nats


def total_steps(config: TrainingConfig, samples: int) -> int:
    return config.epochs * (samples // config.batch_size)


@loop
def train_teacher(
    network: nn.Module, images: Tensor, labels: Tensor, config: TrainingConfig
) -> Iterator[TrainingStep]:
    """Train `network` in place and freeze it at the end.

    Args:
        network: classifier with trainable parameters.
        images: (N, C, H, W), normalized pixels, on the network's device.
        labels: (N,).
        config: see `TrainingConfig`; incomplete last batches are dropped.
    """
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=config.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=config.weight_decay,
    )
    steps = total_steps(config, len(images))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=config.learning_rate, total_steps=steps
    )
    generator = seeded(config.seed, "teacher")
    network.to(images.device).train().requires_grad_(True)
    assert device_of(network) == images.device

    step = 0
    for _ in range(config.epochs):
        order = torch.randperm(len(images), generator=generator).to(images.device)
        for batch in order.split(config.batch_size):
            if len(batch) < config.batch_size:
                continue
            views = random_resized_crop(
                images[batch],
                min_scale=config.min_crop_scale,
                flip=False,  # a mirrored digit is another sign
                generator=generator,
            )
            loss = F.cross_entropy(network(views), labels[batch])
            check_finite(
                loss, loop="teacher", step=step, steps=steps, cause="learning_rate too high"
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            yield TrainingStep(loss.detach())
    freeze(network)
