"""Modules whose output a runtime quantizes although no layer of the student asks for it.

A student quantizes what its layers read. An integer kernel needs codes where it writes, too: a
convolution that feeds an addition, and the sum, have quantizers of 8 bits in the deployed network.
Between layers of 4 bits they matter: one in thirty values of a sum then falls to the next code, and
of 100 images 8 were answered otherwise. So the student has them from the start, and is calibrated
and trained with them. Layers that read such an output at 8 bits read its codes: no tensor is
rounded twice.

The trace shows which function reads what. A quantizer can stand where a module returns the tensor.
Elsewhere, as between two functions in one `forward`, the exporter places it
(hast/export/integer_graph.py, by the same rules), and only the exported network has it.
"""

from collections.abc import Iterator

from torch import nn

from hast.config.spec import ModelSpec
from hast.config.targets import TARGETS
from hast.math.quantization import MAX_BITS
from hast.networks.plan import QuantizationPlan
from hast.networks.trace import CONVOLUTIONS, QUANTIZE, Handle, Trace, Value

_LAYERS = CONVOLUTIONS | {"linear": "Gemm"}
_CONTAINERS = (nn.ModuleDict, nn.ModuleList, nn.Sequential)
# What torch's functions are called in ONNX.
_OPERATORS = _LAYERS | {
    **dict.fromkeys(("add", "add_"), "Add"),
    **dict.fromkeys(("mul", "mul_"), "Mul"),
    **dict.fromkeys(("cat", "concat", "concatenate"), "Concat"),
    **dict.fromkeys(("avg_pool2d", "adaptive_avg_pool2d", "mean"), "AveragePool"),
    **dict.fromkeys(("sigmoid", "sigmoid_"), "Sigmoid"),
}
# Rounding may come before or after them: they move values, choose among them, or clip them.
_COMMUTES = {
    *("relu", "relu_", "relu6", "hardtanh", "hardtanh_", "clamp", "clip", "max_pool2d", "dropout"),
    *("contiguous", "flatten", "permute", "reshape", "squeeze", "transpose", "unsqueeze", "view"),
}  # fmt: skip


def outputs_to_quantize(
    network: nn.Module, spec: ModelSpec, plan: QuantizationPlan
) -> dict[str, tuple[str, ...]]:
    """Modules by name whose output gets a quantizer of 8 bits, in the order in which they run, each
    with the layers for whose own input quantizer of 8 bits it stands.

    Args:
        network: in full precision and in eval mode.
        spec: gives the input shape of the probe.
        plan: tells the target, and what is quantized anyway.
    """
    if not (TARGETS[plan.target].integer_ops and plan.activations):
        return {}
    trace = _Trace(network, spec, plan)
    wanted = {value for made in trace.values for value in trace.to_quantize(made)}
    wanted -= trace.read_in_floats()
    found = [(trace.module_of(value), value) for value in trace.values if value in wanted]
    return {name: trace.read_at_8_bits(value) for name, value in found if name}


def integer_layers(network: nn.Module, spec: ModelSpec, plan: QuantizationPlan) -> dict[str, str]:
    """Layers that run once and whose target adds codes and a bias up, each with the BatchNorm that
    it takes in there, or "".

    Args:
        network, spec, plan: as of `outputs_to_quantize`.
    """
    trace = _Trace(network, spec, plan)
    layers = [value for value in trace.values if trace.is_layer(value) and trace.once(value.module)]
    return {value.module: value.norm for value in layers}


class _Trace(Trace):
    """What of a forward pass a target computes in integers."""

    def __init__(self, network: nn.Module, spec: ModelSpec, plan: QuantizationPlan) -> None:
        self.plan, self.rules = plan, TARGETS[plan.target]
        super().__init__(network, spec, plan.activations, plan.placement)

    def once(self, module: str) -> bool:
        """Whether it runs once. The network itself does, and is not counted."""
        return self.calls[module] == (module != "")

    def module_of(self, value: Value) -> str:
        """The innermost module through which alone a value is got hold of, and which returns no
        other: a quantizer has the range of one tensor."""
        handle: Value | Handle = value.handle
        while isinstance(handle, Handle) and len(handle.users) == 1:
            (handle,) = handle.users
            if isinstance(handle, Handle) and self._can_hold(handle.module):
                return handle.module
        return ""

    def _can_hold(self, module: str) -> bool:
        """Containers call whatever they hold, a quantizer as well."""
        return self.once(module) and not isinstance(self._named[module], _CONTAINERS)

    def read_at_8_bits(self, value: Value) -> tuple[str, ...]:
        """Layers that need no quantizer of their own where `value` has one."""
        layers = [call.module for call in value.readers if call.function == QUANTIZE]
        bits = self.plan.activations
        return tuple(name for name in layers if bits[name] == MAX_BITS and self.once(name))

    def read_in_floats(self) -> set[Value]:
        """What layers in full precision read: as it is, whoever else reads its codes."""
        return {value.read[0] for value in self.values if self._is_float_layer(value)}

    def to_quantize(self, call: Value) -> Iterator[Value]:
        """What an integer operator reads or makes and that is not quantized."""
        if not self._is_integer(call):
            return
        activations = [_unpadded(call)] if call.function in _LAYERS else call.read
        yield from (value for value in activations if value.function != QUANTIZE)
        made = self._end_of(call)
        if made in self.answers or [reader.function for reader in made.readers] == [QUANTIZE]:
            return
        if all(map(self._is_float_layer, made.readers)):
            return
        # Some integer layers can make floats, and what only floats read may be logits.
        if call.function != "linear" or any(map(self._reads_codes, made.readers)):
            yield made

    def _is_integer(self, call: Value) -> bool:
        """Whether it is computed in integers once its activations are quantized."""
        if _OPERATORS.get(call.function) not in self.rules.integer_ops:
            return False
        if call.function == "mean" and call.read[0].shape[:2].numel() != call.shape.numel():
            return False  # of other things than height and width
        if call.function in _LAYERS:
            return self.is_layer(call)
        sources = [self._source(value) for value in call.read]
        summed = _OPERATORS[call.function] in ("Add", "Mul")  # elsewhere a number is a dimension
        if call.reads_others or (summed and call.reads_numbers):
            return False
        if any(map(self._is_float_layer, sources)):
            return False
        # Beside an integer layer only: sums of a transformer are sensitive.
        readers = self._end_of(call).readers
        return any(map(self.is_layer, sources)) or any(map(self._reads_codes, readers))

    def is_layer(self, value: Value) -> bool:
        """A layer whose runtime adds codes up. One that reads tokens adds its bias in floats, and
        one that computes another weight from its own is in floats."""
        is_integer = _LAYERS.get(value.function) in self.rules.integer_ops
        reads_tokens = value.function == "linear" and len(value.shape) != 2
        return is_integer and not reads_tokens and not self._is_float_layer(value)

    def _is_float_layer(self, value: Value) -> bool:
        is_quantized = value.own_weight and value.module in self.plan.weights
        return value.function in _LAYERS and not is_quantized

    def _reads_codes(self, reader: Value) -> bool:
        return reader.function == QUANTIZE or self._is_integer(reader)

    def _commutes(self, call: Value) -> bool:
        if len(call.read) != 1:
            return False
        if call.function == "batch_norm":  # the layer takes it in
            return bool(call.read[0].norm)
        return call.function in _COMMUTES

    def _source(self, value: Value) -> Value:
        while self._commutes(value):
            (value,) = value.read
        return value

    def _end_of(self, value: Value) -> Value:
        """The value behind clips, poolings and views that alone read `value`."""
        while len(value.readers) == 1 and self._commutes(value.readers[0]):
            (value,) = value.readers
        return value


def _unpadded(layer: Value) -> Value:
    """What a layer reads; it takes in a padding."""
    (read, *_) = layer.read
    while read.function == "pad":
        (read,) = read.read
    return read
