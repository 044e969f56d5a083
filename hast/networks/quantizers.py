"""Quantizers that live on the modules they quantize.

A weight quantizer is a parametrization of `weight`; activation quantizers are children of their
module, called by a hook. The network's own class and `forward` stay as they are, so functional
activations, shortcuts and subclasses of Conv and Linear need no special handling.

    weights      a scale for each output channel: channels differ in size by orders of magnitude,
                 and the scale can be pulled out of an integer convolution's sum
    activations  one scale a tensor: channels are what that sum runs over, so theirs could not

Min/max quantizers (the paper) recompute a weight's range at every step, for the weights move.
Learned ones (LSQ) train the scale as its logarithm: a step is then a relative change, a scale
cannot become negative, and one rate fits scales of all sizes. They start from the least squared
error of rounding; from min/max at 2 bits most values would start in one code. Zero points are
chosen once and are never trained: an integer has no gradient.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from hast.engine.runtime import seeded
from hast.math.quantization import (
    QParams,
    choose_qparams,
    dequantize,
    fake_quantize,
    fake_quantize_learned,
    per_channel,
    quant_max_of,
    search_qparams,
)
from hast.math.rounding import rounding_logit, soft_rounding

Mode = Literal["observe", "quantize"]
_SEEN_OF_A_BATCH = 2048  # values kept to search the range on
_REACH = 0.25  # of a step: how far a weight may lie from the code that was decided for it
WIDE_BITS = 7  # from here on, rounding to the 8 significant bits of bf16 moves values by 1/4 step


class WeightQuantizer(nn.Module):
    """Fake-quantizes a weight per entry of `axis` by the min/max it has right now."""

    def __init__(self, bits: int, axis: int = 0, *, symmetric: bool = False) -> None:
        """
        Args:
            bits: code width, 2..8.
            axis: dimension with a scale for each entry, see `hast.networks.plan.channel_axis`.
            symmetric: see `choose_qparams`.
        """
        super().__init__()
        self.bits, self.axis, self.symmetric = bits, axis, symmetric

    def qparams_of(self, weight: Tensor) -> QParams:
        """What this weight is quantized with: one number an entry of `axis`, 1 elsewhere."""
        dims = tuple(d for d in range(weight.ndim) if d != self.axis)
        current = weight.detach()
        low, high = current.amin(dims, keepdim=True), current.amax(dims, keepdim=True)
        return choose_qparams(low, high, bits=self.bits, symmetric=self.symmetric)

    def forward(self, weight: Tensor) -> Tensor:
        return self._fake_quantize(weight, self.qparams_of(weight))

    _fake_quantize = staticmethod(fake_quantize)


class FixedWeightQuantizer(WeightQuantizer):
    """Fake-quantizes a weight with scales that were decided elsewhere."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, bits: int, scale: Tensor, zero_point: Tensor, axis: int = 0) -> None:
        """
        Args:
            bits: code width, 2..8.
            scale, zero_point: as `per_channel` makes them, the zero points integer-valued floats.
            axis: see `hast.networks.plan.channel_axis`.
        """
        super().__init__(bits, axis)
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)

    def qparams_of(self, weight: Tensor) -> QParams:
        return QParams(self.scale, self.zero_point, quant_max_of(self.bits))


class LearnedWeightQuantizer(WeightQuantizer):
    """Fake-quantizes a weight per entry of `axis` with scales that are trained.

    They start where rounding the given weight costs the least. What is stored is their logarithm:
    a step of the optimizer then is a relative change, and a scale stays positive.
    """

    zero_point: Tensor

    _fake_quantize = staticmethod(fake_quantize_learned)

    def __init__(self, weight: Tensor, bits: int, axis: int, *, symmetric: bool = False) -> None:
        super().__init__(bits, axis, symmetric=symmetric)
        rows = weight.detach().movedim(axis, 0).flatten(1)
        start = search_qparams(rows, bits=bits, symmetric=symmetric)
        self.log_scale = nn.Parameter(per_channel(start.scale.log(), weight, axis))
        self.register_buffer("zero_point", per_channel(start.zero_point, weight, axis))

    def qparams_of(self, weight: Tensor) -> QParams:
        return QParams(self.log_scale.exp(), self.zero_point, quant_max_of(self.bits))


class RoundingWeightQuantizer(nn.Module):
    """Stands in for a `LearnedWeightQuantizer` while it is learned which way each weight is
    rounded; see hast/math/rounding.py. The scales are those of the quantizer and train with it."""

    below: Tensor

    def __init__(self, quantizer: LearnedWeightQuantizer, weight: Tensor) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.sharpness = 1.0
        scale, zero_point, quant_max = quantizer.qparams_of(weight)
        position = (weight.detach() / scale.detach() + zero_point).clamp(0, quant_max)
        below = position.floor().clamp(max=quant_max - 1)
        self.register_buffer("below", below)
        self.logit = nn.Parameter(rounding_logit(position - below))

    def forward(self, weight: Tensor) -> Tensor:
        codes = self.below + soft_rounding(self.logit, sharpness=self.sharpness)
        return dequantize(codes, self.quantizer.qparams_of(weight))

    def rounded(self, weight: Tensor) -> Tensor:
        """The weight nearest to the given one that lies safely within the code that was decided.

        At the border of a code, the first steps of fine-tuning would undo what was decided: at 2
        bits its loss grew ninefold in one step. In the middle of a code, half a step away from any
        other, fine-tuning would hardly move a weight.
        """
        qparams = self.quantizer.qparams_of(weight)
        codes = self.below + (self.logit > 0)
        position = weight / qparams.scale + qparams.zero_point
        inside = torch.maximum(torch.minimum(position, codes + _REACH), codes - _REACH)
        return dequantize(inside, qparams).detach()


class ActivationQuantizer(nn.Module):
    """Per-tensor quantizer with a range that is first observed, then frozen.

    `minimum` and `maximum` are a moving average that starts from the first batch; `scale` and
    `zero_point` are what `freeze_range` makes of them. Each is NaN until it was set.
    """

    minimum: Tensor
    maximum: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(self, bits: int, momentum: float, *, symmetric: bool = False) -> None:
        """
        Args:
            bits: code width, 2..8.
            momentum: weight of the old average when a batch arrives, in [0, 1).
            symmetric: see `choose_qparams`.
        """
        super().__init__()
        self.bits, self.momentum, self.symmetric = bits, momentum, symmetric
        self.mode: Mode = "quantize"
        for name in ("minimum", "maximum", "zero_point"):
            self.register_buffer(name, torch.tensor(torch.nan))
        self._register_scale()

    def _register_scale(self) -> None:
        self.register_buffer("scale", torch.tensor(torch.nan))

    @property
    def qparams(self) -> QParams:
        return QParams(self.scale, self.zero_point, quant_max_of(self.bits))

    def _set_scale(self, scale: Tensor) -> None:
        self.scale.copy_(scale)

    def _start(self, qparams: QParams) -> None:
        self.mode = "quantize"
        self._set_scale(qparams.scale.detach().squeeze())
        self.zero_point.copy_(qparams.zero_point.squeeze())

    def freeze_range(self) -> None:
        """Quantize from now on, with the range observed so far."""
        ends = self.minimum, self.maximum
        self._start(choose_qparams(*ends, bits=self.bits, symmetric=self.symmetric))

    def fix(self, qparams: QParams) -> None:
        """Quantize from now on, with what was decided elsewhere."""
        self._start(qparams)
        scale, zero_point, quant_max = qparams
        self.minimum.copy_(-zero_point * scale.detach())
        self.maximum.copy_((quant_max - zero_point) * scale.detach())

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "observe":
            self._observe(x.detach())
            return x
        # In fp32 also under autocast: bf16 cannot tell neighbouring 8-bit codes apart.
        quantized = self._fake_quantize(x.float(), self.qparams)
        return quantized if self.bits >= WIDE_BITS else quantized.to(x.dtype)

    _fake_quantize = staticmethod(fake_quantize)

    def _observe(self, x: Tensor) -> None:
        low, high = x.float().aminmax()
        first = self.minimum.isnan()
        self.minimum.copy_(torch.where(first, low, low.lerp(self.minimum, self.momentum)))
        self.maximum.copy_(torch.where(first, high, high.lerp(self.maximum, self.momentum)))


class LearnedActivationQuantizer(ActivationQuantizer):
    """Per-tensor quantizer whose scale is trained, from where rounding what was observed costs the
    least. As for weights, its logarithm is what is stored."""

    def __init__(self, bits: int, momentum: float, *, symmetric: bool = False) -> None:
        super().__init__(bits, momentum, symmetric=symmetric)
        self._seen: list[Tensor] = []

    def _register_scale(self) -> None:
        self.log_scale = nn.Parameter(torch.tensor(torch.nan))

    @property
    def scale(self) -> Tensor:  # type: ignore[override]
        return self.log_scale.exp()

    def _set_scale(self, scale: Tensor) -> None:
        self.log_scale.data.copy_(scale.log())

    def freeze_range(self) -> None:
        """Quantize from now on, starting from what was observed so far."""
        self.mode = "quantize"
        if self._seen:
            seen = torch.cat(self._seen).view(1, -1)
            self._start(search_qparams(seen, bits=self.bits, symmetric=self.symmetric))
        self._seen = []

    _fake_quantize = staticmethod(fake_quantize_learned)

    def _observe(self, x: Tensor) -> None:
        super()._observe(x)
        self._seen.append(_some_of(x, batch=len(self._seen)).float())


def _some_of(x: Tensor, *, batch: int) -> Tensor:
    """Up to `_SEEN_OF_A_BATCH` values of a feature map, other ones in every batch.

    Drawn, not evenly spaced: even steps may always meet the same pixel, or the same channels.
    """
    if x.numel() <= _SEEN_OF_A_BATCH:
        return x.flatten()
    random = seeded(0, "observe", batch)
    drawn = torch.randint(x.numel(), (_SEEN_OF_A_BATCH,), generator=random).to(x.device)
    return x[torch.unravel_index(drawn, x.shape)]  # whatever its layout: nothing is copied
