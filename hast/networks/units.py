"""The parts of a network that are reconstructed one after the other.

A part must be small, so that a few images decide its weights, and hold what makes up for each
other: layers between two additions, for the error that one makes is one that the next can correct.
So it is the innermost module around a residual addition, or one of the same class that happens to
add nothing (where the stride is 2), and elsewhere a single layer. Names play no role.
"""

from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hast.config.spec import ModelSpec
from hast.networks.blocks import residual_additions
from hast.networks.hooks import removed_at_exit
from hast.networks.plan import weight_of
from hast.networks.trace import Trace


class Unit(NamedTuple):
    """A module that takes one tensor and returns one, once in a forward pass."""

    name: str
    layers: tuple[str, ...]  # that are quantized in it


def find_units(network: nn.Module, spec: ModelSpec, layers: Collection[str]) -> list[Unit]:
    """Units that hold the named layers, in the order in which they run.

    Args:
        network: in eval mode.
        spec: gives the input shape of the probe.
        layers: names of Conv and Linear modules. Those that run more than once in a forward pass,
            and those that share a weight, are in no unit.
    """
    trace = Trace(network, spec)
    usable = {name for name in trace.simple if trace.calls[name] == 1}
    adders = {name for name, _ in residual_additions(trace) if name}
    kinds = {type(network.get_submodule(name)) for name in adders}
    blocks = {name for name in usable if type(network.get_submodule(name)) in kinds}
    blocks = {name for name in blocks if not any(_holds(name, other) for other in blocks)}
    sharing = Counter(id(weight_of(network, name)) for name in layers)
    alone = {name for name in layers if sharing[id(weight_of(network, name))] == 1}
    units: dict[str, list[str]] = {}
    for name in trace.calls:  # in the order in which they end
        owner = next((block for block in blocks if _holds(block, name)), name)
        if name in alone and owner in usable:
            units.setdefault(owner, []).append(name)
    return [Unit(name, tuple(held)) for name, held in units.items()]


def _holds(outer: str, inner: str) -> bool:
    return inner.startswith(f"{outer}.")


class Call(NamedTuple):
    """What a module was given in a pass besides the tensor, and the tensor and its answer."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    input: Tensor
    output: Tensor


class _ReachedError(Exception):
    """Ends a forward pass whose rest nobody needs."""


@torch.no_grad()
def call_of(network: nn.Module, name: str, images: Tensor) -> Call:
    """One forward pass as far as the named module.

    Args:
        network: in eval mode.
        name: of a module that takes one tensor.
        images: (B, C, H, W), normalized pixels.
    """
    seen: list[Any] = []

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # A copy: what follows may work in place.
        seen[:] = args[1:], kwargs, args[0].clone()

    def after(_module: nn.Module, _args: Any, output: Tensor) -> None:
        seen.append(output.clone())
        raise _ReachedError

    module = network.get_submodule(name)
    # Before the hook that quantizes: that belongs to the module.
    handles = [module.register_forward_pre_hook(before, prepend=True, with_kwargs=True)]
    handles.append(module.register_forward_hook(after))
    with removed_at_exit(handles), suppress(_ReachedError):
        network(images)
    return Call(*seen)
