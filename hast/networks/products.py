"""The multiplications of a forward pass: what is multiplied with what, and in which module.

They are seen below the modules, where `F.linear` on a parameter, an attention score and the call of
an `nn.Linear` all are operations on tensors.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from math import prod
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.hooks import RemovableHandle

from hast.config.layers import Placement
from hast.config.spec import ModelSpec
from hast.engine.runtime import probe_images
from hast.networks.hooks import removed_at_exit, tensors_in, with_first

State = Literal["quantized", "skipped", "full"]
_WORST: tuple[State, ...] = ("full", "skipped", "quantized")

_aten = torch.ops.aten
_ADDS = {_aten.addmm, _aten.baddbmm, _aten.addmv}  # their first operand is only added
_UNREGISTERED = {_aten.mv, _aten.addmv, _aten._trilinear}
# What copies values of a quantizer's grid or leaves some out; a view shares its tensor's memory.
_COPIES = {_aten._to_copy, _aten.cat, _aten.clone, _aten.im2col, _aten.repeat, _aten.stack}
_SHUFFLES = {_aten.channel_shuffle, _aten.flip, _aten.native_channel_shuffle, _aten.roll}
_SHUFFLES |= {_aten.pixel_shuffle, _aten.pixel_unshuffle}
_PADS = {_aten.constant_pad_nd, _aten.reflection_pad2d, _aten.replication_pad2d}
_PICKS = {_aten.index, _aten.index_select, _aten.upsample_nearest2d}
_CLIPS = {_aten.relu, _aten.relu_}
_MAXIMA = {_aten.amax, _aten.max_pool1d, _aten.max_pool2d_with_indices}
_MAXIMA |= {_aten.max_pool3d_with_indices, _aten.adaptive_max_pool2d, _aten.adaptive_max_pool3d}
_KEEPS = _COPIES | _SHUFFLES | _PADS | _PICKS | _CLIPS | _MAXIMA


class Product(NamedTuple):
    """One convolution or matrix product with an activation in it.

    Attributes:
        name: of the module, where that multiplies its own `weight`; else of the parameter or
            buffer; else of the module that was running.
        weight: every name of the parameter or buffer that is multiplied, or of the first of those
            that the weight is computed from; empty for another constant, None for two activations.
        shape: of the weight.
        macs: multiply-adds of one image.
        activation: whether the activation has been quantized; of two activations the worse.
    """

    name: str
    weight: tuple[str, ...] | None
    shape: tuple[int, ...]
    macs: int
    activation: State


def products(
    network: nn.Module,
    spec: ModelSpec,
    *,
    sites: Mapping[str, State] = {},
    placement: Placement = "inputs",
) -> list[Product]:
    """All products of a forward pass, in running order.

    Args:
        network: in full precision and in eval mode.
        spec: gives the shape of the image.
        sites: modules that have a quantizer or were denied one.
        placement: whether it sees their first argument, or their output.
    """
    images = probe_images(network, spec.input_shape)
    recorder = _Recorder(network, images)
    hooks = recorder.hooks(network, sites, placement)
    with removed_at_exit(hooks), _nothing_fused(network), torch.no_grad(), recorder:
        network(images)
    return recorder.products


def weight_name(module: str) -> str:
    """The name of a module's `weight` in the network."""
    return f"{module}.weight" if module else "weight"


def worst(states: Iterable[State]) -> State:
    """What a value is that comes from several ones."""
    return min(states, key=_WORST.index)


class _Recorder(TorchDispatchMode):
    """Notes products, and follows what depends on the image and on a quantizer.

    Both are kept by the memory of a tensor, so that views need no rule. An address that is used
    again is written again, for it then is some operation's output.
    """

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: list[Product] = []
        self._images = len(images)
        self._kind = type(network).__name__
        self._running: list[str] = []
        self._named: dict[str, Tensor] = dict(network.named_parameters(remove_duplicate=False))
        self._named |= network.named_buffers(remove_duplicate=False)
        self._spans = [(t.data_ptr(), t.data_ptr() + t.nbytes, n) for n, t in self._named.items()]
        self._states: dict[int, State] = {_memory(images): "full"}  # of what depends on the image
        self._origins: dict[int, tuple[str, ...]] = {}  # of what is computed from parameters

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here. By default torch imports its compiler, which takes seconds, to
        say so for each operation."""
        return False

    def hooks(
        self, network: nn.Module, sites: Mapping[str, State], placement: Placement
    ) -> Iterator[RemovableHandle]:
        """Let the modules say which one is running, and mark tensors where quantizers would be."""

        def mark(name: str, value: Any) -> Any:
            """A copy, as a quantizer would make one: others that hold `value` see no quantizer."""
            if isinstance(value, Tensor):
                value = value.clone()
                self._states[_memory(value)] = sites[name]
            return value

        def enter(name: str, _module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            self._running.append(name)
            marks = placement == "inputs" and name in sites
            return with_first(args, kwargs, partial(mark, name)) if marks else None

        def leave(name: str, _module: nn.Module, _args: Any, output: Any) -> Any:
            self._running.pop()
            marks = placement != "inputs" and name in sites
            return mark(name, output) if marks else None

        for name, module in network.named_modules():
            yield module.register_forward_pre_hook(partial(enter, name), with_kwargs=True)
            yield module.register_forward_hook(partial(leave, name))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func._overloadpacket in flop_registry or func._overloadpacket in _UNREGISTERED:
            self._note(func._overloadpacket, args, kwargs, output)
        self._follow(func, args, kwargs, output)
        return output

    def _note(self, packet: Any, args: tuple[Any, ...], kwargs: Any, output: Any) -> None:
        operands = args[1:3] if packet in _ADDS else args[:2]
        known = [self._states.get(_memory(operand)) for operand in operands]
        states = [state for state in known if state is not None]
        if not states:  # computes a weight
            return
        if packet in flop_registry:
            macs = flop_registry[packet](*args, **kwargs, out_val=output) // 2
        else:  # a vector, or a batch of them, with all of the matrix
            macs = prod(operands[0].shape[:-1]) * prod(operands[1].shape)
        constants = [o for o, state in zip(operands, known, strict=True) if state is None]
        module = self._running[-1]
        weight, shape, name = None, (), module or self._kind
        if constants:
            weight = self._origin(constants[0])
            shape = tuple((self._named[weight[0]] if weight else constants[0]).shape)
            if weight:
                name = module if weight_name(module) in weight else weight[0]
        macs //= self._images
        self.products.append(Product(name, weight, shape, macs, worst(states)))

    def _follow(self, func: Any, args: tuple[Any, ...], kwargs: Any, output: Any) -> None:
        # What `torch.tensor` made lies where anything may have been before.
        fresh = func is _aten.lift_fresh.default
        given = [] if fresh else tensors_in((args, kwargs))
        states = [self._states.get(_memory(t)) for t in given]
        new: State | None = None
        if any(states):
            floats = [s for s, t in zip(states, given, strict=True) if t.is_floating_point()]
            new = worst(s or "full" for s in floats) if _keeps(func, args) and floats else "full"
        origin = next(filter(None, map(self._origin, given)), ())
        views = set() if func._schema.is_mutable else set(map(_memory, given))
        for address in {_memory(t) for t in tensors_in(output)} - views:
            self._origins.pop(address, None)
            self._states.pop(address, None)
            if new:
                self._states[address] = new
            else:
                self._origins[address] = origin

    def _origin(self, tensor: Tensor) -> tuple[str, ...]:
        # Not by storage: tensors of a file that is mapped into memory may share one.
        start = tensor.data_ptr()
        held = (name for low, high, name in self._spans if low <= start < high)
        return tuple(held) or self._origins.get(_memory(tensor), ())


@contextmanager
def _nothing_fused(network: nn.Module) -> Iterator[None]:
    """Attention and recurrent layers as the products they are made of."""
    attention = torch.backends.mha
    with ExitStack() as stack:
        stack.callback(attention.set_fastpath_enabled, attention.get_fastpath_enabled())
        attention.set_fastpath_enabled(False)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(module, nn.RNNBase) for module in network.modules()):
            # Warnings are of a setting of other machines.
            stack.enter_context(warnings.catch_warnings(action="ignore"))
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


def _keeps(func: Any, args: tuple[Any, ...]) -> bool:
    packet = func._overloadpacket
    if packet is _aten.constant_pad_nd and any(args[2:]):
        return False  # zero is on every grid, other values are not
    return packet in _KEEPS


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
