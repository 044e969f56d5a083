"""Uniform affine quantization and its straight-through gradient.

    x_int = clamp(round(x / scale) + zero_point, 0, quant_max)
    x_hat = (x_int - zero_point) * scale

`scale` and `zero_point` carry the granularity: a scalar quantizes per tensor, a tensor of shape
(C, 1, ...) quantizes per channel, by ordinary broadcasting. Codes are unsigned, so `quant_min` is 0
throughout and `quant_max` is 2**bits - 1. Zero always has a code: padding with zeros and ReLU's
zeros must come through exactly, or every border of an image would be wrong by half a step.

Inside the range a value moves by at most scale / 2, outside it is clipped. So the range decides
between two errors: wide, and all values are rounded coarsely; narrow, and the few largest are cut.
`choose_qparams` takes min and max and clips nothing, which at 8 bits is right and at 3 lets one
outlier spend the codes of everybody; `search_qparams` looks for the least squared error instead.

Rounding has slope 0 nearly everywhere, so no gradient would ever reach a weight. The
straight-through estimator computes with the rounded value and differentiates as if there were no
rounding: d x_hat / d x := 1. Two variants differ where a value was clipped:

    fake_quantize          1 there too; the scale is a constant that follows the weights (the paper)
    fake_quantize_learned  0 there, and the scale gets the gradient instead (LSQ): with
                           v = x / scale, d x_hat / d scale is round(v) - v inside the range and
                           the distance of the clipping code from the zero point outside it
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

QUANT_MIN = 0
MIN_BITS, MAX_BITS = 2, 8
_SEARCH_BLOCK = 1 << 16  # values


class QParams(NamedTuple):
    """What turns real numbers into codes and back.

    `scale` (float) and `zero_point` (integer-valued float) have one shape that broadcasts against
    the quantized tensor.
    """

    scale: Tensor
    zero_point: Tensor
    quant_max: int


def quant_max_of(bits: int) -> int:
    """Largest unsigned code of `bits` bits.

    Raises:
        ValueError: `bits` lies outside 2..8.
    """
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"bits must lie in {MIN_BITS}..{MAX_BITS}, got {bits}")
    return (1 << bits) - 1


def per_channel(values: Tensor, weight: Tensor, axis: int = 0) -> Tensor:
    """Values (C,), one for each entry of dimension `axis`, as they broadcast against `weight`."""
    shape = [1] * weight.ndim
    shape[axis] = -1
    return values.reshape(shape)


def choose_qparams(
    minimum: Tensor, maximum: Tensor, *, bits: int, symmetric: bool = False
) -> QParams:
    """Min/max quantization parameters of the range [minimum, maximum].

    The range is widened to contain zero. Zero then has a code of its own, so zero padding stays
    exact, and the zero point fits the unsigned container even where all values have one sign.

    Args:
        minimum: lower ends, any shape that broadcasts against the tensor to quantize.
        maximum: upper ends, same shape.
        bits: code width, 2..8.
        symmetric: put zero at the code in the middle, 2**(bits - 1), and the end that lies further
            away at the largest code. Stored as `code - zero_point` such codes are signed integers
            whose zero is 0, which integer kernels multiply without a correction.
    """
    quant_max = quant_max_of(bits)
    minimum = minimum.clamp(max=0.0)
    maximum = maximum.clamp(min=0.0)
    # The floor only acts on an all-zero range, where any positive scale is right.
    tiny = torch.finfo(torch.float32).tiny
    if symmetric:
        middle = (quant_max + 1) // 2
        scale = torch.maximum(-minimum, maximum) / (quant_max - middle)
        return QParams(scale.clamp(min=tiny), torch.full_like(scale, middle), quant_max)
    scale = ((maximum - minimum) / quant_max).clamp(min=tiny)
    zero_point = torch.round(-minimum / scale).clamp(QUANT_MIN, quant_max)
    return QParams(scale, zero_point, quant_max)


def search_qparams(
    x: Tensor, *, bits: int, symmetric: bool = False, candidates: int = 80
) -> QParams:
    """Quantization parameters with the least mean squared error of rounding, row by row.

    Tries the min/max range of every row, shrunk to 1/candidates, 2/candidates, ... of itself.

    Args:
        x: (R, M), one range for each row.
        bits: code width, 2..8.
        symmetric: see `choose_qparams`.
        candidates: ranges to try.

    Returns:
        `scale` and `zero_point` of shape (R, 1).
    """
    # A few rows at a time stay in the processor's cache: five times as fast.
    blocks = x.split(max(1, _SEARCH_BLOCK // x.shape[1]))
    choose = partial(choose_qparams, bits=bits, symmetric=symmetric)
    found = [_search_rows(block, choose, candidates) for block in blocks]
    scales, zero_points, _ = zip(*found, strict=True)
    return QParams(torch.cat(scales), torch.cat(zero_points), quant_max_of(bits))


def _search_rows(x: Tensor, choose: Callable[..., QParams], candidates: int) -> QParams:
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    best = choose(low, high)
    least = torch.full_like(low, torch.inf)
    for share in torch.arange(1, candidates + 1, device=x.device) / candidates:
        tried = choose(low * share, high * share)
        error = (x - dequantize(quantize(x, tried), tried)).square().mean(1, keepdim=True)
        better = error < least
        least = torch.where(better, error, least)
        best = QParams(
            torch.where(better, tried.scale, best.scale),
            torch.where(better, tried.zero_point, best.zero_point),
            best.quant_max,
        )
    return best


def quantize(x: Tensor, qparams: QParams) -> Tensor:
    """Codes of `x`, integer-valued floats in [0, quant_max], same shape as `x`."""
    return (torch.round(x / qparams.scale) + qparams.zero_point).clamp(QUANT_MIN, qparams.quant_max)


def dequantize(codes: Tensor, qparams: QParams) -> Tensor:
    """Real values of integer-valued `codes`, same shape."""
    return (codes - qparams.zero_point) * qparams.scale


class _StraightThrough(torch.autograd.Function):
    """Forward: quantize and dequantize. Backward: identity, also where the value was clipped.

    A Function and not `x + (x_hat - x).detach()`: that sum rounds, so its result would no longer
    be the value that integer arithmetic gives.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, qparams: QParams) -> Tensor:
        return dequantize(quantize(x, qparams), qparams)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0], None


def fake_quantize(x: Tensor, qparams: QParams) -> Tensor:
    """`x` rounded to its codes and back, with a straight-through gradient without clipping mask.

    Source: Bengio et al., 2013 (arXiv:1308.3432); the missing mask is the HAST setting.
    """
    result: Tensor = _StraightThrough.apply(x, qparams)
    return result


class _Round(torch.autograd.Function):
    """Forward: round to the nearest integer. Backward: identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return grad_outputs[0]


def fake_quantize_learned(x: Tensor, qparams: QParams) -> Tensor:
    """The values of `fake_quantize`, but with a gradient for the scale and a mask for `x`: what is
    clipped moves the scale and not itself.

    The published factor on the scale's gradient is left out; Adam's steps do not depend on it.

    Source: Esser et al., 2020, Learned Step Size Quantization (arXiv:1902.08153).
    """
    scale, zero_point, quant_max = qparams
    rounded: Tensor = _Round.apply(x / scale)
    return ((rounded + zero_point).clamp(QUANT_MIN, quant_max) - zero_point) * scale
