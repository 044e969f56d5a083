"""Train the built-in default teacher. Any other teacher comes trained."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hast.config.teacher import TrainingConfig
from hast.engine.runtime import loop, seeded
from hast.loops.checks import check_finite
from hast.loops.order import BatchOrder
from hast.math.augmentation import random_resized_crop
from hast.networks.batch_norm import freeze


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
    rate, decay = config.learning_rate, config.weight_decay
    optimizer = torch.optim.SGD(
        network.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=decay
    )
    steps = total_steps(config, len(images))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
    generator = seeded(config.seed, "teacher")
    network.to(images.device).train().requires_grad_(True)

    order = BatchOrder(len(images), config.batch_size, None, generator)
    for step, batch in zip(range(steps), order, strict=False):
        batch = batch.to(images.device)
        # Not flipped: a mirrored digit is another sign.
        views = random_resized_crop(
            images[batch], min_scale=config.min_crop_scale, flip=False, generator=generator
        )
        loss = F.cross_entropy(network(views), labels[batch])
        check_finite(loss, loop="teacher", step=step, steps=steps, cause="learning_rate too high")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield TrainingStep(loss.detach())
    freeze(network)
