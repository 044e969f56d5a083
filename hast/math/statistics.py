"""Batch-norm statistics (BNS): how far a batch is from what the teacher saw in training.

A BatchNorm layer keeps, for each channel, the mean and the variance of its input over the training
data: all that is left of those images. A batch whose own statistics agree with them at every layer
looks to the network like training data, and because all of this is differentiable in the pixels,

    L_BNS = mean over layers of [ MSE_c(mean, running mean) + MSE_c(var, running var) ]

can be minimised over them. Two things go wrong easily. The variance must be the biased one (divided
by n): that is what BatchNorm's forward pass computes, and with few pixels the two differ. And the
statistics belong to a batch, not to an image: cut a bank into other batches and its gap is another.
"""

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


def corrected_statistics(
    running: ChannelStatistics, *, before: ChannelStatistics, after: ChannelStatistics
) -> ChannelStatistics:
    """What a layer should expect once quantization has changed its input from `before` to `after`.

    The mean moves by the difference and the variance by the ratio, so that how these images differ
    from the training data cancels.

    Args:
        running: of the training data, before the change; mean and var of shape (C,), as below.
        before, after: of the same images.
    """
    # A channel that is (nearly) constant has no ratio worth trusting.
    known = (before.var > 1e-6) & (after.var > 1e-6)
    ratio = torch.where(known, after.var / before.var, 1.0).clamp(0.25, 4.0)
    return ChannelStatistics(running.mean + (after.mean - before.mean), running.var * ratio)


def bns_gap(batch: ChannelStatistics, running: ChannelStatistics) -> Tensor:
    """Distance of one layer: MSE over channels of the means plus that of the variances. Scalar."""
    return (batch.mean - running.mean).square().mean() + (batch.var - running.var).square().mean()


def bns_loss(batch: Sequence[ChannelStatistics], running: Sequence[ChannelStatistics]) -> Tensor:
    """L_BNS: `bns_gap` averaged over the L BatchNorm layers. Scalar.

    Source: the BNS term of DeepInversion and GDFQ as HAST uses it.
    """
    gaps = [bns_gap(b, r) for b, r in zip(batch, running, strict=True)]
    return torch.stack(gaps).mean()
