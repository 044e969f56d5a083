"""The modules that stand for quantizers while a student is exported."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hast.math.quantization import QParams, dequantize, quantize
from hast.networks.codes import Codes


class StoredWeight(nn.Module):
    """Plain torch operators: codes of one byte become the weight."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, qparams: QParams) -> None:
        super().__init__()
        scale, zero_point, self.quant_max = qparams
        # Copies: parts of one long tensor would be saved as one.
        self.register_buffer("scale", scale.clone())
        self.register_buffer("zero_point", zero_point.clone())

    def forward(self, codes: Tensor) -> Tensor:
        return dequantize(codes.float(), QParams(self.scale, self.zero_point, self.quant_max))


def stored_weight(weight: Codes) -> tuple[nn.Module, Tensor]:
    """What `lower` asks for: codes of one byte, and what makes a weight of them."""
    # In the student's memory format: in another one a convolution may add in another order.
    return StoredWeight(weight.qparams), weight.codes.to(torch.uint8)


class RoundedActivation(nn.Module):
    """Plain torch operators: round, clamp, scale."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, qparams: QParams) -> None:
        super().__init__()
        scale, zero_point, self.quant_max = qparams
        self.register_buffer("scale", scale.clone())
        self.register_buffer("zero_point", zero_point.clone())

    def forward(self, x: Tensor) -> Tensor:
        qparams = QParams(self.scale, self.zero_point, self.quant_max)
        return dequantize(quantize(x, qparams), qparams)


class OnnxWeight(nn.Module):
    """DequantizeLinear of stored codes.

    Where the container has room for it, it holds `code - zero_point`: the same weight with a zero
    point of 0, which is what runtimes with integer kernels ask of weights. Spread, it holds that
    times the largest power of two that fits, with a scale so much smaller: still the same weight to
    the bit, but a runtime that rounds biases to multiples of `scale_x * scale_w` rounds them finer.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, qparams: QParams, *, axis: int, container_bits: int, spread: bool) -> None:
        """
        Args:
            qparams: one for each entry of `axis`.
            axis: see `Codes`.
            container_bits: 4 or 8, at least the width of the codes.
            spread: use the whole range of a signed container.
        """
        super().__init__()
        scale, zero_point, quant_max = qparams
        self.axis, self.container_bits = axis, container_bits
        self.signed = quant_max < 1 << (container_bits - 1)
        self.dtype = torch.int8 if self.signed else torch.uint8
        zero_point = torch.zeros_like(zero_point) if self.signed else zero_point
        room = (1 << (container_bits - 1)) // (quant_max + 1)
        self.factor = room if spread and self.signed else 1
        self.register_buffer("scale", scale.flatten() / self.factor)
        self.register_buffer("zero_point", zero_point.flatten().to(self.dtype))

    def forward(self, codes: Tensor) -> Tensor:
        return _onnx(
            "DequantizeLinear",
            (codes, self.scale, self.zero_point),
            {"axis": self.axis},
            like=codes,
            dtype=torch.float32,
        )


def onnx_weight(weight: Codes, *, container_bits: int, spread: bool) -> tuple[nn.Module, Tensor]:
    """What `lower` asks for: codes in the bytes of a container, and their DequantizeLinear."""
    form = OnnxWeight(
        weight.qparams, axis=weight.axis, container_bits=container_bits, spread=spread
    )
    codes = weight.codes - weight.qparams.zero_point if form.signed else weight.codes
    return form, (codes * form.factor).to(form.dtype).contiguous()


class OnnxActivation(nn.Module):
    """QuantizeLinear, Clip, DequantizeLinear in one byte: there is no type of 3, 5, 6 or 7 bits,
    and this form loads everywhere."""

    scale: Tensor
    zero_point: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, qparams: QParams) -> None:
        super().__init__()
        scale, zero_point, self.quant_max = qparams
        self.register_buffer("scale", scale.clone())
        self.register_buffer("zero_point", zero_point.to(torch.uint8))
        self.register_buffer("low", torch.tensor(0, dtype=torch.uint8))
        self.register_buffer("high", torch.tensor(self.quant_max, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        qparams = (self.scale, self.zero_point)
        codes = _onnx("QuantizeLinear", (x, *qparams), {}, like=x, dtype=torch.uint8)
        if self.quant_max < torch.iinfo(torch.uint8).max:
            codes = _onnx("Clip", (codes, self.low, self.high), {}, like=x, dtype=torch.uint8)
        return _onnx("DequantizeLinear", (codes, *qparams), {}, like=x, dtype=torch.float32)


def _onnx(
    operator: str,
    inputs: Sequence[Tensor],
    attributes: dict[str, int],
    *,
    like: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """An operator of ONNX itself, which the exporter writes down as it is."""
    result: Tensor = torch.onnx.ops.symbolic(
        operator, inputs, dict(attributes), dtype=dtype, shape=like.shape, version=21
    )
    return result
