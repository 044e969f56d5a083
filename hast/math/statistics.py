"""Batch-norm statistics (BNS): how far a batch is from what the teacher saw in training."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class ChannelStatistics(NamedTuple):
    """Mean and variance of every channel, each of shape (C,)."""

    mean: Tensor
    var: Tensor


def channel_statistics(x: Tensor) -> ChannelStatistics:
    """Mean and biased variance per channel.

    Args:
        x: (N, C) or (N, C, *spatial), the input of a BatchNorm layer.
    """
    dims = [d for d in range(x.ndim) if d != 1]
    var, mean = torch.var_mean(x.float(), dim=dims, correction=0)
    return ChannelStatistics(mean, var)


def bns_gap(batch: ChannelStatistics, running: ChannelStatistics) -> Tensor:
    """Distance of one layer: MSE over channels of the means plus that of the variances. Scalar."""
    return (batch.mean - running.mean).square().mean() + (batch.var - running.var).square().mean()


def bns_loss(batch: Sequence[ChannelStatistics], running: Sequence[ChannelStatistics]) -> Tensor:
    """L_BNS: `bns_gap` averaged over the L BatchNorm layers. Scalar.

    Source: the BNS term of DeepInversion and GDFQ as HAST uses it.
    """
    gaps = [bns_gap(b, r) for b, r in zip(batch, running, strict=True)]
    return torch.stack(gaps).mean()
