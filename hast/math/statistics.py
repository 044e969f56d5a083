"""Batch-norm statistics (BNS): how far a batch is from what the teacher saw in training."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class ChannelStatistics(NamedTuple):
    """Mean and variance of every channel, each of shape (C,)."""

    mean: Tensor
    var: Tensor


def channel_statistics(x: Tensor, *, around: Tensor) -> ChannelStatistics:
    """Mean and biased variance per channel, in fp32.

    From the first two moments around a value near the mean: one pass over `x` for both, a third
    faster compiled than Welford's update, and without the cancellation of E[x^2] - E[x]^2.

    Args:
        x: (N, C) or (N, C, *spatial), the input of a BatchNorm layer.
        around: (C,), any constant near the mean, such as the running mean.
    """
    spatial = list(range(2, x.ndim))
    shifted = x.float() - around.view(1, -1, *[1] * len(spatial))
    # Image by image first, which splits the sum over threads.
    mean, square = (
        (m.mean(spatial) if spatial else m).mean(0) for m in (shifted, shifted.square())
    )
    return ChannelStatistics(mean + around, square - mean.square())


def bns_gap(batch: ChannelStatistics, running: ChannelStatistics) -> Tensor:
    """Distance of one layer: MSE over channels of the means plus that of the variances. Scalar."""
    return (batch.mean - running.mean).square().mean() + (batch.var - running.var).square().mean()


def bns_loss(batch: Sequence[ChannelStatistics], running: Sequence[ChannelStatistics]) -> Tensor:
    """L_BNS: `bns_gap` averaged over the L BatchNorm layers. Scalar.

    Source: the BNS term of DeepInversion and GDFQ as HAST uses it.
    """
    gaps = [bns_gap(b, r) for b, r in zip(batch, running, strict=True)]
    return torch.stack(gaps).mean()
