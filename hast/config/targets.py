"""What runs the deployed network, as data: the numbers that its integer kernels take.

A student is trained and evaluated with the numbers of its target, the quantizers between its layers
(hast/networks/outputs.py) and the biases (hast/networks/biases.py) included. To add a runtime,
add a row.
"""

from typing import Literal

from hast.config.section import Section

Target = Literal["generic", "onnxruntime", "openvino", "tensorrt", "pt2e"]


class TargetRules(Section):
    """What the integer kernels of one runtime take.

    They multiply codes of 8 bits. Narrower codes are kept in bytes for them, so what limits a
    target is mostly said of 8 bits.
    """

    symmetric_weights: bool = False
    """Weights are signed with a zero point of 0. At 6 bits and fewer that asks nothing of them: a
    signed byte has room for `code - zero_point` whatever the zero point is. At 7 bits it keeps all
    codes within 64 of zero, see `spread_to`."""
    symmetric_activations: bool = False
    """Activations are signed with a zero point of 0; at 8 bits, and no others."""
    integer_ops: frozenset[str] = frozenset()
    """Operators of ONNX with an integer kernel, beside those that only move codes. What they read
    and make is quantized, to 8 bits where the layers' widths do not say otherwise; empty leaves all
    but layers in floating point."""
    clips: Literal["codes", "values"] | None = None
    """A quantizer moves in front of a ReLU or pooling; what clipped values then clips `codes`
    behind it, or once more `values` in front of it, with the range of narrow codes: OpenVINO makes
    that part of the layer. TensorRT looks for the ReLU itself."""
    spread_to: int | None = None
    """Codes of few bits are multiplied by the largest power of two that leaves them at most this
    far from zero, and their scale divided by it: the same weights, but the runtime rounds biases to
    multiples of both scales. Within 64 of zero the sum of two products fits 16 bits, which
    processors without VNNI saturate; at 8 bits it may not."""
    quantizes_biases: bool = False
    """Biases are integers of 32 bits, in steps of both scales, in the student too; other runtimes
    take floats."""
    four_bit_types: bool = False
    """Codes of up to four bits are stored in the types of four bits."""
    reads_programs: bool = False
    """It reads no ONNX but `.pt2` files: they quantize with operators that it knows. An ONNX file
    of such a student is a generic one."""

    def is_symmetric(self, *, weight: bool, bits: int) -> bool:
        """Whether a weight, or an activation, of so many bits has its zero code in the middle."""
        if weight:
            return self.symmetric_weights and bits >= 7  # see `symmetric_weights`
        return self.symmetric_activations

    def spread(self, bits: int) -> int:
        """What codes of so many bits are multiplied by; see `spread_to`."""
        return max(1, (self.spread_to or 0) >> bits)


_COMMON = {"Conv", "Gemm", "MatMul", "Add", "Concat", "AveragePool", "GlobalAveragePool"}
TARGETS: dict[Target, TargetRules] = {
    "generic": TargetRules(four_bit_types=True),
    "onnxruntime": TargetRules(
        symmetric_weights=True,
        integer_ops=frozenset({*_COMMON, "Mul", "Sigmoid"}),
        clips="codes",
        quantizes_biases=True,
        spread_to=64,
    ),
    "openvino": TargetRules(
        symmetric_weights=True,
        integer_ops=frozenset({*_COMMON, "ConvTranspose", "Mul"}),
        clips="values",
        quantizes_biases=True,
    ),
    "tensorrt": TargetRules(
        symmetric_weights=True,
        symmetric_activations=True,
        integer_ops=frozenset({*_COMMON, "ConvTranspose"}),
    ),
    # Inductor on x86. Its kernels are oneDNN's, which saturate without VNNI, too.
    "pt2e": TargetRules(symmetric_weights=True, spread_to=64, reads_programs=True),
}


def onnx_target(target: Target) -> Target:
    """The target of the ONNX file of a student that is made for `target`."""
    return "generic" if TARGETS[target].reads_programs else target
