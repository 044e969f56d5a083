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
_CONTAINERS = (nn.ModuleDict, nn.ModuleList, nn.Sequential)
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


class _Value:
    """A tensor: the function that made it, in which module, of what, and what reads it."""

    def __init__(self, function: str, module: str, made: Tensor, read: list["_Value"]) -> None:
        self.function, self.module, self.read = function, module, read
        self.shape = made.shape
        self.readers: list[_Value] = []
        self.reads_constants = False
        self.is_quantized = False  # a layer's: it multiplies its own weight, which is quantized
        self.handle = _Handle(self)

    @property
    def norm(self) -> str:
        """The BatchNorm that alone reads what a layer makes, and which that can take in."""
        if len(self.readers) != 1 or _OPERATORS.get(self.function) not in ("Conv", "Gemm"):
            return ""
        return self.readers[0].module if self.readers[0].function == "batch_norm" else ""


class _Handle:
    """How a value is got hold of: as a function made it, or as a module returned it. A quantizer
    behind the module reaches those who have it from there."""

    def __init__(self, value: _Value, module: str = "") -> None:
        self.value, self.module = value, module
        self.users: list[_Value | _Handle] = []


class _Trace(TorchFunctionMode):
    """All values of one forward pass that depend on the image, in their order."""

    def __init__(self, network: nn.Module, spec: ModelSpec, plan: QuantizationPlan) -> None:
        super().__init__()
        self.plan, self.rules = plan, TARGETS[plan.target]
        self.values: list[_Value] = []
        self._named = dict(network.named_modules())
        self._running = [""]
        self._times: Counter[str] = Counter()
        self._handles: dict[int, _Handle] = {}  # by the identity of the tensor
        self._alive: list[Tensor] = []  # an identity is only one while its tensor lives
        image = torch.zeros(2, *spec.input_shape, device=device_of(network))
        self._hold(image, _Value("", "", image, []).handle)
        with torch.no_grad(), removed_at_exit(self._hooks(network)), self:
            answer = network(image)
        held = (self._handles.get(id(tensor)) for tensor in tensors_in(answer))
        self._answers = {handle.value for handle in held if handle}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tensors_in((args, kwargs))
        held = [self._handles[id(tensor)] for tensor in given if id(tensor) in self._handles]
        result = func(*args, **(kwargs or {}))
        for made in tensors_in(result) if held else ():
            if made.is_floating_point():
                read = [handle.value for handle in held]
                value = _Value(func.__name__, self._running[-1], made, read)
                numbers = any(isinstance(x, (int, float)) for x in args)  # a dimension is one, too
                summed = _OPERATORS.get(value.function) in ("Add", "Mul")
                value.reads_constants = len(held) < len(given) or (summed and numbers)
                weight = self._named[value.module]._parameters.get("weight")
                own = weight is not None and any(x is weight for x in given[1:])
                value.is_quantized = own and value.module in self.plan.weights
                for handle in held:
                    handle.users.append(value)
                    handle.value.readers.append(value)
                self.values.append(value)
                self._hold(made, value.handle)
        return result

    def _hold(self, tensor: Tensor, handle: _Handle) -> None:
        self._alive.append(tensor)
        self._handles[id(tensor)] = handle

    def _hooks(self, network: nn.Module) -> Iterator[RemovableHandle]:
        def quantize(name: str, value: Any) -> Any:
            """A copy, where the student has a quantizer."""
            copied = value.clone()
            if id(copied) in self._handles:  # it depends on the image
                made = self._handles[id(copied)].value
                made.function, made.module = _QUANTIZE, name
            return copied

        def enter(name: str, _module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            inside = self.plan.placement == "inputs" and name in self.plan.activations
            given = with_first(args, kwargs, partial(quantize, name)) if inside else None
            self._running.append(name)
            return given

        def leave(name: str, _module: nn.Module, _args: Any, output: Any) -> Any:
            self._running.pop()
            self._times[name] += 1
            if self.plan.placement != "inputs" and name in self.plan.activations:
                return quantize(name, output)
            handle = self._handles.get(id(output))
            if handle is None:
                return None
            with torch._C.DisableTorchFunction():
                again = output.view_as(output)  # another tensor, as behind a quantizer
            returned = _Handle(handle.value, name)
            handle.users.append(returned)
            self._hold(again, returned)
            return again

        for name, module in network.named_modules():
            if name:
                yield module.register_forward_pre_hook(partial(enter, name), with_kwargs=True)
                yield module.register_forward_hook(partial(leave, name))

    def once(self, module: str) -> bool:
        """Whether it runs once. The network itself does, and is not counted."""
        return self._times[module] == (module != "")

    def module_of(self, value: _Value) -> str:
        """The innermost module through which alone a value is got hold of, and which returns no
        other: a quantizer has the range of one tensor."""
        handle: _Value | _Handle = value.handle
        while isinstance(handle, _Handle) and len(handle.users) == 1:
            (handle,) = handle.users
            if isinstance(handle, _Handle) and self._can_hold(handle.module):
                return handle.module
        return ""

    def _can_hold(self, module: str) -> bool:
        """Containers call whatever they hold, a quantizer as well."""
        return self.once(module) and not isinstance(self._named[module], _CONTAINERS)

    def read_at_8_bits(self, value: _Value) -> tuple[str, ...]:
        """Layers that need no quantizer of their own where `value` has one."""
        layers = [call.module for call in value.readers if call.function == _QUANTIZE]
        bits = self.plan.activations
        return tuple(name for name in layers if bits[name] == MAX_BITS and self.once(name))

    def read_in_floats(self) -> set[_Value]:
        """What layers in full precision read: as it is, whoever else reads its codes."""
        return {value.read[0] for value in self.values if self._is_float_layer(value)}

    def to_quantize(self, call: _Value) -> Iterator[_Value]:
        """What an integer operator reads or makes and that is not quantized."""
        if not self._is_integer(call):
            return
        activations = [_unpadded(call)] if call.function in _LAYERS else call.read
        yield from (value for value in activations if value.function != _QUANTIZE)
        made = self._end_of(call)
        if made in self._answers or [reader.function for reader in made.readers] == [_QUANTIZE]:
            return
        if all(map(self._is_float_layer, made.readers)):
            return
        # Some integer layers can make floats, and what only floats read may be logits.
        if call.function != "linear" or any(map(self._reads_codes, made.readers)):
            yield made

    def _is_integer(self, call: _Value) -> bool:
        """Whether it is computed in integers once its activations are quantized."""
        if _OPERATORS.get(call.function) not in self.rules.integer_ops:
            return False
        if call.function == "mean" and call.read[0].shape[:2].numel() != call.shape.numel():
            return False  # of other things than height and width
        if call.function in _LAYERS:
            return self.is_layer(call)
        sources = [self._source(value) for value in call.read]
        if call.reads_constants or any(map(self._is_float_layer, sources)):
            return False
        # Beside an integer layer only: sums of a transformer are sensitive.
        readers = self._end_of(call).readers
        return any(map(self.is_layer, sources)) or any(map(self._reads_codes, readers))

    def is_layer(self, value: _Value) -> bool:
        """A layer whose runtime adds codes up. One that reads tokens adds its bias in floats, and
        one that computes another weight from its own is in floats."""
        is_integer = _LAYERS.get(value.function) in self.rules.integer_ops
        reads_tokens = value.function == "linear" and len(value.shape) != 2
        return value.is_quantized and is_integer and not reads_tokens

    def _is_float_layer(self, value: _Value) -> bool:
        return value.function in _LAYERS and not value.is_quantized

    def _reads_codes(self, reader: _Value) -> bool:
        return reader.function == _QUANTIZE or self._is_integer(reader)

    def _commutes(self, call: _Value) -> bool:
        if len(call.read) != 1:
            return False
        if call.function == "batch_norm":  # the layer takes it in
            return bool(call.read[0].norm)
        return call.function in _COMMUTES

    def _source(self, value: _Value) -> _Value:
        while self._commutes(value):
            (value,) = value.read
        return value

    def _end_of(self, value: _Value) -> _Value:
        """The value behind clips, poolings and views that alone read `value`."""
        while len(value.readers) == 1 and self._commutes(value.readers[0]):
            (value,) = value.readers
        return value


def _unpadded(layer: _Value) -> _Value:
    """What a layer reads; it takes in a padding."""
    (read, *_) = layer.read
    while read.function == "pad":
        (read,) = read.read
    return read
