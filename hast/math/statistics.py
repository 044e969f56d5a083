"""Batch-norm statistics (BNS): how far a batch is from what the teacher saw in training.

A BatchNorm layer keeps, for each channel, the mean and the variance of its input over the training
data: all that is left of those images. A batch whose own statistics agree with them at every layer
looks to the network like training data, and because all of this is differentiable in the pixels,

    L_BNS = mean over layers of [ MSE_c(mean, running mean) + MSE_c(var, running var) ]

can be minimised over them. Two things go wrong easily. The variance must be the biased one (divided
by n): that is what BatchNorm's forward pass computes, and with few pixels the two differ. And the
statistics belong to a batch, not to an image: cut a bank into other batches and its gap is another.

That is the paper's loss, and it has units: a network is the same function after a convolution is
multiplied by s and its BatchNorm's statistics by s and s^2, but the layer's term grows by s^2 and
s^4. So the layers with large inputs are matched and the others are not, and which these are is an
accident of training. The relative distance measures each channel in what its BatchNorm divides by,

    d_c = ((mean - running mean) / sigma)^2 + (std / sigma - 1)^2        sigma^2 = running var + eps

(std^2 = var + eps, so a dead channel is no division by zero) and does not change. Channels far off
must not outvote all others, and a bound must be smooth: clamped, a channel would have no gradient
to come back by. `10 log(1 + d_c / 10)` is d_c where channels are nearly right, and far away asks
for the same relative progress of each. On EfficientNet-Lite0 it also ended nearer than
`log(1 + d_c)` or `100 log(1 + d_c / 100)`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_FAR = 10.0  # squared standard deviations


class ChannelStatistics(NamedTuple):
    """Mean and variance of every channel, each of shape (C,)."""

    mean: Tensor
    var: Tensor


class BatchNormCall(NamedTuple):
    """What a layer was given, and what it knows of the training data."""

    batch: ChannelStatistics
    running: ChannelStatistics
    eps: float


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
    moments = shifted, shifted.square()
    # Image by image first, which splits the sum over threads.
    mean, square = ((m.mean(spatial) if spatial else m).mean(0) for m in moments)
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


def bns_gap(call: BatchNormCall) -> Tensor:
    """Distance of one layer: MSE over channels of the means plus that of the variances. Scalar."""
    (mean, var), running, _ = call
    return (mean - running.mean).square().mean() + (var - running.var).square().mean()


def relative_bns_gap(call: BatchNormCall) -> Tensor:
    """Distance of one layer in its channels' own standard deviations. Scalar."""
    batch, running, eps = call
    var = running.var + eps
    spread = ((batch.var.clamp(min=0.0) + eps) / var).sqrt()
    distance = (batch.mean - running.mean).square() / var + (spread - 1).square()
    return (_FAR * torch.log1p(distance / _FAR)).mean()


def bns_loss(calls: Sequence[BatchNormCall], *, relative: bool = False) -> Tensor:
    """L_BNS: the distance averaged over the L BatchNorm layers. Scalar.

    Args:
        calls: one for each layer.
        relative: take the relative distance in place of the paper's.

    Source: the BNS term of DeepInversion and GDFQ as HAST uses it; the relative one is ours.
    """
    gap = relative_bns_gap if relative else bns_gap
    return torch.stack([gap(call) for call in calls]).mean()
