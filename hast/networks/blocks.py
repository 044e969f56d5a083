"""The modules whose features are aligned: residual bodies, taken before the addition.

Of the two summands of a residual addition the body is the one with more convolutions behind it; its
module is the one that returned the summand (trace.py).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from torch import Tensor, nn

from hast.config.spec import ModelSpec
from hast.errors import InputError
from hast.math.distillation import attention_vector
from hast.networks.batch_norm import batch_norms
from hast.networks.hooks import removed_at_exit
from hast.networks.trace import Trace


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
    trace = Trace(network, spec)
    if patterns:
        return _matching(network, patterns, trace.feature_maps)
    if bodies := [body for _, body in residual_additions(trace) if body]:
        return list(dict.fromkeys(bodies))
    norms = set(map(id, batch_norms(network)))
    return [name for name in trace.feature_maps if id(network.get_submodule(name)) in norms]


def residual_additions(trace: Trace) -> Iterator[tuple[str, str]]:
    """Of each: the innermost module around it, "" the network itself, and the module that returned
    the body, "" where none did."""
    for call in trace.values:
        shapes = {value.shape for value in call.read}
        if call.function not in ("add", "add_") or len(call.read) != 2 or len(shapes) != 1:
            continue
        shallow, deep = sorted(call.given, key=lambda handle: handle.value.depth)
        if len(call.shape) == 4 and shallow.value.depth < deep.value.depth:
            while not deep.module and deep.value.returns_given:
                deep = deep.value.given[0]
            yield call.module, deep.module


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
