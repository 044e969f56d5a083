"""Modules whose output a runtime quantizes although no layer of the student asks for it.

A student quantizes what its layers read. An integer kernel needs codes where it writes, too: a
convolution that feeds an addition, and the sum, have quantizers of 8 bits in the deployed network.
Between layers of 4 bits they matter: one in thirty values of a sum then falls to the next code, and
of 100 images 8 were answered otherwise. So the student has them from the start, and is calibrated
and trained with them. Layers that read such an output at 8 bits read its codes: no tensor is
rounded twice.

One eager forward pass on zeros shows which function reads what. A quantizer can stand where a
module returns the tensor. Elsewhere, as between two functions in one `forward`, the exporter places
it (hast/export/integer_graph.py, by the same rules), and only the exported network has it.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from hast.config.spec import ModelSpec
from hast.config.targets import TARGETS
from hast.engine.runtime import device_of
from hast.math.quantization import MAX_BITS
from hast.networks.hooks import removed_at_exit, tensors_in, with_first
from hast.networks.plan import QuantizationPlan

_LAYERS = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), "Conv"),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), "ConvTranspose"),
    "linear": "Gemm",
}
_QUANTIZE = "quantize"  # stands where the student has a quantizer
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
    """Modules by name whose output gets a quantizer of 8 bits, in the order in which they return,
    each with the layers for whose own input quantizer of 8 bits it stands.

    Args:
        network: in full precision and in eval mode.
        spec: gives the input shape of the probe.
        plan: tells the target, and what is quantized anyway.
    """
    if not (TARGETS[plan.target].integer_ops and plan.activations):
        return {}
    calls = _Calls(network, spec, plan)
    wanted = {value for call in calls.all for value in calls.to_quantize(call)}
    wanted -= calls.read_in_floats()
    found = [(calls.module_of(value), value) for value in calls.all if value in wanted]
    return {name: calls.read_at_8_bits(value) for name, value in found if name}


class _Call:
    """A function that made a tensor, what it read, and what reads that."""

    def __init__(self, function: str, module: str, made: Tensor, read: list["_Call"]) -> None:
        self.function, self.module, self.read = function, module, read
        self.shape = made.shape
        self.readers: list[_Call] = []
        self.returned_by: list[str] = []  # before anything reads it; the innermost module first
        self.reads_constants = False
        for value in read:
            value.readers.append(self)


class _Calls(TorchFunctionMode):
    """All calls of one forward pass that depend on the image, in their order."""

    def __init__(self, network: nn.Module, spec: ModelSpec, plan: QuantizationPlan) -> None:
        super().__init__()
        self.plan, self.rules = plan, TARGETS[plan.target]
        self.all: list[_Call] = []
        self._running = [""]
        self._times: Counter[str] = Counter()
        self._of: dict[int, _Call] = {}  # by the identity of the tensor
        self._alive: list[Tensor] = []  # an identity is only one while its tensor lives
        image = torch.zeros(2, *spec.input_shape, device=device_of(network))
        self._note(image, _Call("", "", image, []))
        with torch.no_grad(), removed_at_exit(self._hooks(network)), self:
            answer = network(image)
        self._answers = [self._of.get(id(tensor)) for tensor in tensors_in(answer)]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tensors_in((args, kwargs))
        read = [self._of[id(tensor)] for tensor in given if id(tensor) in self._of]
        result = func(*args, **(kwargs or {}))
        for made in tensors_in(result) if read else ():
            if made.is_floating_point():
                call = _Call(func.__name__, self._running[-1], made, read)
                call.reads_constants = len(read) < len(given)
                self._note(made, call)
        return result

    def _note(self, tensor: Tensor, call: _Call) -> None:
        self._alive.append(tensor)
        self._of[id(tensor)] = call
        self.all.append(call)

    def _hooks(self, network: nn.Module) -> Iterator[RemovableHandle]:
        def quantize(name: str, value: Any) -> Any:
            """A copy, where the student has a quantizer."""
            copied = value.clone()
            if id(copied) in self._of:  # it depends on the image
                self._of[id(copied)].function, self._of[id(copied)].module = _QUANTIZE, name
            return copied

        def enter(name: str, _module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            inside = self.plan.placement == "inputs" and name in self.plan.activations
            given = with_first(args, kwargs, partial(quantize, name)) if inside else None
            self._running.append(name)
            return given

        def leave(name: str, _module: nn.Module, _args: Any, output: Any) -> Any:
            self._running.pop()
            self._times[name] += 1
            call = self._of.get(id(output))
            if call and not call.readers:
                call.returned_by.append(name)
            behind = self.plan.placement != "inputs" and name in self.plan.activations
            return quantize(name, output) if behind else None

        for name, module in network.named_modules():
            if name:
                yield module.register_forward_pre_hook(partial(enter, name), with_kwargs=True)
                yield module.register_forward_hook(partial(leave, name))

    def module_of(self, value: _Call) -> str:
        """That returns it, and nothing else: a quantizer has the range of one tensor."""
        return next((name for name in value.returned_by if self._times[name] == 1), "")

    def read_at_8_bits(self, value: _Call) -> tuple[str, ...]:
        """Layers that need no quantizer of their own where `value` has one."""
        layers = [call.module for call in value.readers if call.function == _QUANTIZE]
        bits, times = self.plan.activations, self._times
        return tuple(name for name in layers if bits[name] == MAX_BITS and times[name] == 1)

    def read_in_floats(self) -> set[_Call]:
        """What layers in full precision read: as it is, whoever else reads its codes."""
        return {call.read[0] for call in self.all if self._is_float_layer(call)}

    def to_quantize(self, call: _Call) -> Iterator[_Call]:
        """What an integer operator reads or makes and that is not quantized."""
        if not self._is_integer(call):
            return
        activations = call.read[:1] if call.function in _LAYERS else call.read
        yield from (value for value in activations if value.function != _QUANTIZE)
        made = self._end_of(call)
        if made in self._answers or [reader.function for reader in made.readers] == [_QUANTIZE]:
            return
        if all(map(self._is_float_layer, made.readers)):
            return
        # Some integer layers can make floats, and what only floats read may be logits.
        if call.function != "linear" or any(map(self._reads_codes, made.readers)):
            yield made

    def _is_integer(self, call: _Call) -> bool:
        """Whether it is computed in integers once its activations are quantized."""
        if _OPERATORS.get(call.function) not in self.rules.integer_ops:
            return False
        if call.function == "mean" and call.read[0].shape[:2].numel() != call.shape.numel():
            return False  # of other things than height and width
        if call.function in _LAYERS:
            return self._is_layer(call)
        sources = [self._source(value) for value in call.read]
        if call.reads_constants or any(map(self._is_float_layer, sources)):
            return False
        # Beside an integer layer only: sums of a transformer are sensitive.
        readers = self._end_of(call).readers
        return any(map(self._is_layer, sources)) or any(map(self._reads_codes, readers))

    def _is_layer(self, call: _Call) -> bool:
        """A layer whose runtime adds codes up. One that reads tokens adds its bias in floats."""
        is_layer = call.function in _LAYERS and call.module in self.plan.weights
        return is_layer and (call.function != "linear" or len(call.shape) == 2)

    def _is_float_layer(self, call: _Call) -> bool:
        return call.function in _LAYERS and call.module not in self.plan.weights

    def _reads_codes(self, reader: _Call) -> bool:
        return reader.function == _QUANTIZE or self._is_integer(reader)

    def _commutes(self, call: _Call) -> bool:
        if len(call.read) != 1:
            return False
        if call.function == "batch_norm":  # the layer that it alone reads takes it in
            layer = call.read[0]
            return _OPERATORS.get(layer.function) in ("Conv", "Gemm") and len(layer.readers) == 1
        return call.function in _COMMUTES

    def _source(self, value: _Call) -> _Call:
        while self._commutes(value):
            (value,) = value.read
        return value

    def _end_of(self, value: _Call) -> _Call:
        """The value behind clips, poolings and views that alone read `value`."""
        while len(value.readers) == 1 and self._commutes(value.readers[0]):
            (value,) = value.readers
        return value
