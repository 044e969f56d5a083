"""The modules whose features are aligned: residual bodies, taken before the addition.

One eager forward pass on zeros watches the additions. Of the two summands of a residual addition
the body is the one with more convolutions behind it; its module is the one that returned the
summand. Names of classes and attributes play no role.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hast.config.spec import ModelSpec
from hast.engine.runtime import device_of
from hast.errors import InputError
from hast.math.distillation import attention_vector
from hast.networks.batch_norm import batch_norms
from hast.networks.hooks import removed_at_exit, tensors_in

_CONVOLUTIONS = {torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose2d}
_ADDITIONS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}


def find_blocks(network: nn.Module, spec: ModelSpec, patterns: Sequence[str] = ()) -> list[str]:
    """Names of the modules to align, in the order in which they run.

    Args:
        network: in eval mode.
        spec: gives the input shape of the probe.
        patterns: module names or shell patterns (`layer?.*.bn2`) that replace the search.

    Returns:
        Residual bodies; in a network without residual additions, every BatchNorm layer that
        answers with feature maps.

    Raises:
        InputError: a pattern matches no module, or a matched one returns no (N, C, H, W) tensor.
    """
    probe = probed(network, spec)
    if patterns:
        return _matching(network, patterns, probe.feature_maps)
    if probe.bodies:
        return probe.bodies
    norms = set(map(id, batch_norms(network)))
    return [name for name in probe.feature_maps if id(network.get_submodule(name)) in norms]


def probed(network: nn.Module, spec: ModelSpec) -> "Probe":
    """What one pass on zeros shows of a network in eval mode."""
    probe = Probe()
    with torch.no_grad(), probe, probe.watching(network):
        network(torch.zeros(1, *spec.input_shape, device=device_of(network)))
    return probe


@contextmanager
def tap_attention(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the attention vectors (N, C) of the outputs (N, C, H, W) of the named modules.

    Yields:
        A dict that each forward pass fills, keyed by module name. What reads it inside compiled
        code empties it: found filled, it would be compiled again.
    """
    taken: dict[str, Tensor] = {}

    def read(name: str, _module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        taken[name] = attention_vector(output)
        # A residual addition may follow in place and would overwrite what backward needs.
        return output.clone()

    handles = [network.get_submodule(n).register_forward_hook(partial(read, n)) for n in names]
    with removed_at_exit(handles):
        yield taken


def _matching(network: nn.Module, patterns: Sequence[str], maps: Iterable[str]) -> list[str]:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name, _ in network.named_modules()):
            raise InputError(f"alignment module {pattern!r} matches no module of the network")
    found = [n for n in maps if any(fnmatchcase(n, p) for p in patterns)]
    if not found:
        raise InputError(f"no module matching {list(patterns)} returns an (N, C, H, W) tensor")
    return found


class Probe(TorchFunctionMode):
    """Counts the convolutions behind every tensor and notes residual additions.

    Attributes:
        calls: how often each module ran, in the order in which they ended.
        simple: modules that take one tensor first and return one.
        feature_maps: modules that return an (N, C, H, W) tensor.
        bodies: of residual additions.
        adders: innermost modules around residual additions; "" is the network itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.simple: set[str] = set()
        self.feature_maps: list[str] = []
        self.bodies: list[str] = []
        self.adders: set[str] = set()
        self._running = [""]  # from the network to the innermost module
        self._depth: dict[int, int] = {}
        self._producer: dict[int, str] = {}
        self._alive: list[Tensor] = []  # an id is only unique while its tensor lives

    def watching(self, network: nn.Module) -> AbstractContextManager[None]:
        """Note which module runs and which tensor it returned while the context is open."""
        named = [(name, module) for name, module in network.named_modules() if name]
        handles = [m.register_forward_pre_hook(partial(self._note_start, n)) for n, m in named]
        note = self._note_output
        handles += [m.register_forward_hook(partial(note, n), with_kwargs=True) for n, m in named]
        return removed_at_exit(handles)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operands = tensors_in((args, kwargs))
        if func in _ADDITIONS:
            self._note_addition(operands)
        depth = max((self._depth.get(id(t), 0) for t in operands), default=0)
        depth += func in _CONVOLUTIONS
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            self._depth[id(tensor)] = depth
            self._alive.append(tensor)
        return result

    def _note_start(self, name: str, _module: nn.Module, _args: Any) -> None:
        self._running.append(name)

    def _note_output(self, name: str, _module: Any, args: Any, kwargs: Any, output: Any) -> None:
        self._running.pop()
        self.calls[name] += 1
        given = tensors_in((args, kwargs))
        if isinstance(output, Tensor) and len(given) == 1 and args and given[0] is args[0]:
            self.simple.add(name)
        if isinstance(output, Tensor) and output.ndim == 4:
            self._producer[id(output)] = name
            if name not in self.feature_maps:
                self.feature_maps.append(name)

    def _note_addition(self, operands: list[Tensor]) -> None:
        if len(operands) != 2 or operands[0].ndim != 4 or operands[0].shape != operands[1].shape:
            return
        shallow, deep = sorted(operands, key=lambda t: self._depth.get(id(t), 0))
        is_residual = self._depth.get(id(deep), 0) > self._depth.get(id(shallow), 0)
        if is_residual:
            self.adders.add(self._running[-1])
        body = self._producer.get(id(deep))
        if is_residual and body is not None and body not in self.bodies:
            self.bodies.append(body)
