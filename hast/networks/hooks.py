"""Hooks, and forwards in the place of others, that never outlive their purpose."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from hast.engine.engine import CONTIGUOUS


@contextmanager
def removed_at_exit(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove the hooks behind `handles` when the context ends, however it ends."""
    with ExitStack() as stack:
        for handle in handles:
            stack.enter_context(handle)
        yield


@contextmanager
def replaced_forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let modules compute something else while the context is open."""
    with ExitStack() as stack:
        for module, forward in forwards.items():
            own = vars(module).get("forward")
            restore = partial(setattr, module, "forward", own) if own else None
            stack.callback(restore or partial(delattr, module, "forward"))
            module.forward = forward
        yield


def tensors_in(values: Any) -> list[Tensor]:
    """All tensors in nested arguments or results."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def with_first(
    args: tuple[Any, ...], kwargs: dict[str, Any], change: Callable[[Any], Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of a module with the first one changed, which may have been given by name."""
    if args:
        return (change(args[0]), *args[1:]), kwargs
    name = next(iter(kwargs))
    return args, kwargs | {name: change(kwargs[name])}


def copies_input(network: nn.Module) -> None:
    """Let `network` work on a copy of its first argument from now on.

    A forward that normalizes in place (`x.sub_(mean)`) would otherwise change the images for the
    next network that is asked about them, and has no gradient for a leaf.
    """
    if _copy_input not in network._forward_pre_hooks.values():
        network.register_forward_pre_hook(_copy_input)


# A function of the module, so that deep copies of a network share nothing with it.
def _copy_input(network: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    if args and isinstance(args[0], Tensor):
        usual = vars(network).get(CONTIGUOUS)
        layout = torch.contiguous_format if usual else torch.preserve_format
        return (args[0].clone(memory_format=layout), *args[1:])
    return args
