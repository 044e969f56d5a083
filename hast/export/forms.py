"""The modules that stand for quantizers while a student is exported."""

from functools import partial
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers the operators
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hast.config.targets import TargetRules
from hast.math.quantization import QParams, dequantize, per_channel, quantize
from hast.networks.codes import Codes, lower
from hast.networks.plan import TRANSPOSED

_decomposed = torch.ops.quantized_decomposed


class _Grid(nn.Module):
    """Scale and zero point of a quantizer, as buffers."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, qparams: QParams) -> None:
        super().__init__()
        scale, zero_point, self.quant_max = qparams
        # Copies: parts of one long tensor would be saved as one.
        self.register_buffer("scale", scale.clone())
        self.register_buffer("zero_point", zero_point.clone())

    @property
    def qparams(self) -> QParams:
        return QParams(self.scale, self.zero_point, self.quant_max)


class StoredWeight(_Grid):
    """Plain torch operators: codes of one byte become the weight."""

    def forward(self, codes: Tensor) -> Tensor:
        return dequantize(codes.float(), self.qparams)


def stored_weight(weight: Codes) -> tuple[nn.Module, Tensor]:
    """What `lower` asks for: codes of one byte, and what makes a weight of them."""
    # In the student's memory format: in another one a convolution may add in another order.
    return StoredWeight(weight.qparams), weight.codes.to(torch.uint8)


class RoundedActivation(_Grid):
    """Plain torch operators: round, clamp, scale."""

    def forward(self, x: Tensor) -> Tensor:
        return dequantize(quantize(x, self.qparams), self.qparams)


def in_full_precision(student: nn.Module) -> nn.Module:
    """A copy that computes with the values of a student's weights, and rounds nothing."""

    def values(weight: Codes) -> tuple[nn.Module, Tensor]:
        return nn.Identity(), dequantize(weight.codes, weight.qparams)

    return lower(student, values, lambda _: nn.Identity())


class OnnxWeight(_Grid):
    """DequantizeLinear of stored codes.

    Where the container has room for it, it holds `code - zero_point`: the same weight with a zero
    point of 0, which is what runtimes with integer kernels ask of weights. Spread, it holds that
    times a power of two, with a scale so much smaller: still the same weight to the bit, but a
    runtime that rounds biases to multiples of `scale_x * scale_w` rounds them finer.
    """

    def __init__(self, weight: Codes, rules: TargetRules) -> None:
        """
        Args:
            weight: to dequantize.
            rules: of the target.
        """
        scale, zero_point, quant_max = weight.qparams
        container_bits = 4 if rules.four_bit_types and weight.bits <= 4 else 8
        half = 1 << (container_bits - 1)
        signed = quant_max < half or rules.symmetric_weights
        factor = rules.spread(weight.bits)
        dtype = torch.int8 if signed else torch.uint8
        stored = (torch.zeros_like(zero_point) if signed else zero_point).flatten().to(dtype)
        super().__init__(QParams(scale.flatten() / factor, stored, quant_max))
        self.axis, self.container_bits = weight.axis, container_bits
        self.signed, self.dtype, self.factor = signed, dtype, factor

    def forward(self, codes: Tensor) -> Tensor:
        grid = self.scale, self.zero_point
        return _onnx("DequantizeLinear", codes, *grid, dtype=torch.float32, axis=self.axis)


class DecomposedWeight(OnnxWeight):
    """The same stored codes, dequantized by the operator that torch's compilers look for, or where
    they should not find it by a product."""

    visible = True

    def forward(self, codes: Tensor) -> Tensor:
        if not self.visible:
            return codes.float() * per_channel(self.scale, codes, self.axis)
        limits = torch.iinfo(self.dtype)
        weight: Tensor = _decomposed.dequantize_per_channel(
            codes, self.scale, self.zero_point, self.axis, limits.min, limits.max, self.dtype
        )
        return weight


def onnx_weight(
    weight: Codes, rules: TargetRules, form_of: type[OnnxWeight] = OnnxWeight
) -> tuple[nn.Module, Tensor]:
    """What `lower` asks for: codes in the bytes of a container, and what dequantizes them."""
    form = form_of(weight, rules)
    codes = weight.codes - weight.qparams.zero_point if form.signed else weight.codes
    # Only the outermost code of a channel that folding has mirrored lies beyond, by one.
    limits = torch.iinfo(form.dtype)
    codes = (codes * form.factor).clamp(limits.min, limits.max)
    return form, codes.to(form.dtype).contiguous()


def decomposed(student: nn.Module, rules: TargetRules) -> nn.Module:
    """A copy with the quantizers that torch's compilers look for."""
    weight = partial(onnx_weight, rules=rules, form_of=DecomposedWeight)
    lowered = lower(student, weight, DecomposedActivation)
    for module in lowered.modules():
        if isinstance(module, TRANSPOSED) and parametrize.is_parametrized(module, "weight"):
            # Inductor would compute an ordinary convolution, and another answer (torchao 0.18).
            form: Any = module.get_submodule("parametrizations.weight.0")
            form.visible = False
    return lowered


class OnnxActivation(_Grid):
    """QuantizeLinear, Clip, DequantizeLinear in one byte: there is no type of 3, 5, 6 or 7 bits,
    and this form loads everywhere."""

    low: Tensor
    high: Tensor

    def __init__(self, qparams: QParams, rules: TargetRules) -> None:
        dtype = torch.int8 if rules.symmetric_activations else torch.uint8
        low = torch.iinfo(dtype).min
        super().__init__(qparams._replace(zero_point=(qparams.zero_point + low).to(dtype)))
        self.dtype = dtype
        self.register_buffer("low", torch.tensor(low, dtype=self.dtype))
        self.register_buffer("high", torch.tensor(low + self.quant_max, dtype=self.dtype))

    def forward(self, x: Tensor) -> Tensor:
        grid = self.scale, self.zero_point
        codes = _onnx("QuantizeLinear", x, *grid, dtype=self.dtype)
        if self.quant_max < torch.iinfo(torch.uint8).max:
            codes = _onnx("Clip", codes, self.low, self.high, dtype=self.dtype)
        return _onnx("DequantizeLinear", codes, *grid, dtype=torch.float32)


class DecomposedActivation(nn.Module):
    """The operators that torch's compilers look for, to unsigned bytes.

    A compiler lets the layer before round to bytes, and then asks nobody for `quant_max`: codes of
    fewer bits are clipped behind the quantizer.
    """

    def __init__(self, qparams: QParams) -> None:
        super().__init__()
        limits = torch.iinfo(torch.uint8)
        # Numbers of the graph, not tensors: a layer is fused only with a quantizer of such.
        grid = float(qparams.scale), int(qparams.zero_point)
        self.arguments = (*grid, limits.min, limits.max, torch.uint8)
        self.clip = qparams.quant_max if qparams.quant_max < limits.max else None

    def forward(self, x: Tensor) -> Tensor:
        codes = _decomposed.quantize_per_tensor(x, *self.arguments)
        if self.clip is not None:
            codes = codes.clamp(max=self.clip)
        values: Tensor = _decomposed.dequantize_per_tensor(codes, *self.arguments)
        return values


def _onnx(operator: str, *inputs: Tensor, dtype: torch.dtype, **attributes: int) -> Tensor:
    """An operator of ONNX itself, which the exporter writes down as it is: one value for each of
    the first input."""
    return torch.onnx.ops.symbolic(
        operator, inputs, dict(attributes), dtype=dtype, shape=inputs[0].shape, version=21
    )
