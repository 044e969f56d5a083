"""One forward pass, written down: which function made which tensor, of what, and in which module.

All that the method knows about the structure of a network is read from it: what is aligned
(blocks.py), what is reconstructed (units.py), which BatchNorm a layer can take in (folding.py), and
where an integer kernel needs codes (outputs.py). Names of classes and attributes play no role, and
no compiler has to understand the network: it is an eager pass on noise. Hooks tell which module
runs and what it returns, and a mode sees each call of a function.

What scripted code calls is not seen: its tensors are taken for ones that depend on the image and of
which nothing else is known. And Python may look at values; what it then does to noise is what
counts.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from hast.config.layers import Placement
from hast.config.spec import ModelSpec
from hast.engine.runtime import probe_images
from hast.networks.hooks import removed_at_exit, tensors_in, with_first

QUANTIZE = "quantize"  # what a function is called that stands where a quantizer would be
_UNSEEN = "unseen"  # and one of which nothing is known
# Convolutions, and what they are called in ONNX.
CONVOLUTIONS = {f"conv{d}d": "Conv" for d in (1, 2, 3)}
_ROWS = {*CONVOLUTIONS, "linear"}  # a row of the weight for each output
CONVOLUTIONS |= {f"conv_transpose{d}d": "ConvTranspose" for d in (1, 2, 3)}


class Value:
    """A tensor that depends on the image.

    Attributes:
        function: that made it, by torch's name.
        module: that was running.
        given: what the function was given of such tensors.
        readers: what is made of it.
        shape: of the tensor, in a pass of two images.
        depth: convolutions on the longest way from the image.
        reads_others: whether the function was given tensors that depend on no image, or on
            something unknown.
        reads_numbers: whether it was given Python's numbers.
        own_weight: whether it was given the `weight` of its module.
        returns_given: whether it returned what it was given, written over or not.
    """

    def __init__(self, function: str, module: str, made: Tensor, given: list["Handle"]) -> None:
        self.function, self.module, self.given = function, module, given
        self.shape = made.shape
        self.readers: list[Value] = []
        behind: list[int] = [value.depth for value in self.read]
        self.depth: int = max(behind, default=0) + (function in CONVOLUTIONS)
        self.reads_others = self.reads_numbers = self.own_weight = self.returns_given = False
        self.handle = Handle(self)

    @property
    def read(self) -> list["Value"]:
        return [handle.value for handle in self.given]

    @property
    def norm(self) -> str:
        """The BatchNorm that alone reads what a layer makes, a channel of a convolution or a row,
        so that its gain can go into the weight; "" where there is none."""
        is_layer = self.function in _ROWS and (self.function != "linear" or len(self.shape) == 2)
        if not is_layer or [reader.function for reader in self.readers] != ["batch_norm"]:
            return ""
        return self.readers[0].module


class Handle:
    """How a value is got hold of: as a function made it, or as a module returned it.

    A value has one for each module that returned it, one in the other. `Value.readers` are all
    functions that were given it, however; `users` those that were given this very one, and the next
    handle. So a quantizer behind a module reaches the users of its handle.
    """

    def __init__(self, value: Value, module: str = "") -> None:
        self.value, self.module = value, module
        self.users: list[Value | Handle] = []


class Trace(TorchFunctionMode):
    """What one pass of two images shows of a network.

    Attributes:
        values: in the order in which they were made.
        answers: those among them that the network returns.
        calls: how often each module inside the network ran, in the order in which they ended.
        simple: modules that take one tensor first and return one.
        feature_maps: modules that return an (N, C, H, W) tensor, in the order in which they ended.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: ModelSpec,
        sites: Collection[str] = (),
        placement: Placement = "inputs",
    ) -> None:
        """
        Args:
            network: in eval mode.
            spec: gives the shape of the images.
            sites: modules that would have a quantizer.
            placement: whether for their first argument, or for what they return.
        """
        super().__init__()
        self.values: list[Value] = []
        self.calls: Counter[str] = Counter()
        self.simple: set[str] = set()
        self.feature_maps: list[str] = []
        self._named = dict(network.named_modules())
        self._running = [""]  # from the network to the innermost module
        self._handles: dict[int, Handle | None] = {}  # by identity; None of what knows no image
        self._alive: list[Tensor] = []  # an identity is only one while its tensor lives
        for constant in (*network.parameters(), *network.buffers()):
            self._hold(constant, None)
        image = probe_images(network, spec.input_shape)
        self._hold(image, Value("image", "", image, []).handle)
        inside = sites if placement == "inputs" else ()
        behind = sites if placement != "inputs" else ()
        with torch.no_grad(), removed_at_exit(self._hooks(inside, behind)), self:
            answer = network(image)
        self.answers = {handle.value for handle in self._held(tensors_in(answer))}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = tensors_in((args, kwargs))
        given = self._held(tensors)
        result = func(*args, **(kwargs or {}))
        written = args[:1] if func.__name__ == "__setitem__" else ()
        for made in (*tensors_in(result), *written):
            if given:
                value = Value(func.__name__, self._running[-1], made, given)
                self._note(value, made, args, tensors)
            elif id(made) not in self._handles:
                self._hold(made, None)
        return result

    def _note(self, value: Value, made: Tensor, args: Any, tensors: list[Tensor]) -> None:
        for read in value.read:
            read.readers.append(value)
        if not made.is_floating_point():  # a mask, indices, a spectrum: followed, and no more
            value.function = _UNSEEN
            self._hold(made, value.handle)
            return
        for handle in value.given:
            handle.users.append(value)
        unseen = any(read.function == _UNSEEN for read in value.read)
        value.reads_others = unseen or len(value.given) < len(tensors)
        value.reads_numbers = any(isinstance(x, (int, float)) for x in args)
        weight = self._named[value.module]._parameters.get("weight")
        value.own_weight = weight is not None and any(x is weight for x in tensors[1:])
        value.returns_given = any(x is made for x in tensors)
        self.values.append(value)
        self._hold(made, value.handle)

    def _hold(self, tensor: Tensor, handle: Handle | None) -> None:
        self._alive.append(tensor)
        self._handles[id(tensor)] = handle

    def _held(self, tensors: list[Tensor]) -> list[Handle]:
        """Of those tensors that depend on the image."""
        for tensor in tensors:
            if id(tensor) not in self._handles:
                value = Value(_UNSEEN, self._running[-1], tensor, [])
                self._hold(tensor, value.handle)
        handles = (self._handles[id(tensor)] for tensor in tensors)
        return [handle for handle in handles if handle]

    def _hooks(self, inside: Collection[str], behind: Collection[str]) -> Iterator[RemovableHandle]:
        def enter(name: str, _module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            quantize = partial(self._quantized, name)
            given = with_first(args, kwargs, quantize) if name in inside else None
            self._running.append(name)
            return given

        def leave(name: str, _module: Any, args: Any, kwargs: Any, output: Any) -> Any:
            self._note_call(name, args, tensors_in((args, kwargs)), output)
            if not isinstance(output, Tensor):
                return None
            if name in behind:
                return self._quantized(name, output)
            return self._returned(name, output)

        for name, module in self._named.items():
            if name:
                yield module.register_forward_pre_hook(partial(enter, name), with_kwargs=True)
                yield module.register_forward_hook(partial(leave, name), with_kwargs=True)

    def _note_call(self, name: str, args: Any, given: list[Tensor], output: Any) -> None:
        depends = bool(self._held(given))
        self._running.pop()
        self.calls[name] += 1
        if not isinstance(output, Tensor):
            return
        if len(given) == 1 and args and given[0] is args[0]:
            self.simple.add(name)
        if output.ndim == 4 and name not in self.feature_maps:
            self.feature_maps.append(name)
        if not depends and id(output) not in self._handles:
            self._hold(output, None)

    def _quantized(self, module: str, value: Any) -> Any:
        """A copy, where the student has a quantizer."""
        copied = value.clone()
        for handle in self._held([copied]):
            handle.value.function, handle.value.module = QUANTIZE, module
        return copied

    def _returned(self, module: str, output: Tensor) -> Tensor:
        """The same values as another tensor, as it would be behind a quantizer."""
        for handle in self._held([output]):
            with torch._C.DisableTorchFunction():
                output = output.view_as(output)
            returned = Handle(handle.value, module)
            handle.users.append(returned)
            self._hold(output, returned)
        return output
