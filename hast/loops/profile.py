"""Profile a bank: how well do its batches match each BatchNorm layer of the teacher?"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hast.math.statistics import bns_gap
from hast.networks.batch_norm import tap_batch_norm_inputs
from hast.runtime import device_of


def bns_profile(teacher: nn.Module, images: Tensor, *, batch_size: int) -> Iterator[Tensor]:
    """BNS gap of every BatchNorm call, (L,), one record a batch.

    Args:
        teacher: frozen, eval mode.
        images: (N, C, H, W), normalized pixels.
        batch_size: the size the images were optimised in; statistics depend on it.
    """
    device = device_of(teacher)
    with tap_batch_norm_inputs(teacher) as tap:
        for batch in images.split(batch_size):
            with torch.no_grad():
                teacher(batch.to(device))
            yield torch.stack([bns_gap(b, r) for b, r in zip(tap.batch, tap.running, strict=True)])
