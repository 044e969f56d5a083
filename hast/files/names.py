"""Tensors of a checkpoint, by the names that a network has for them.

Whatever a network was trained inside of is part of the names: `module.` of `DataParallel`, also in
the middle, `_orig_mod.` of `torch.compile`, `model.` or `net.` of a Lightning module, beside which
a loss and a second network may have weights of their own. What stands in front of the names is
found by comparing: names from their end, and shapes.
"""

from collections import Counter
from collections.abc import Mapping

from torch import Tensor, nn

from hast.errors import InputError, warn
from hast.networks.fingerprint import COUNTERS, bare

_NAMED = 3


def named_as(network: nn.Module, state: Mapping[str, Tensor], *, name: str) -> dict[str, Tensor]:
    """A state dict with the names of `network`, where it has them behind a prefix or in wrappers.

    Says what was taken off and what was left out. Where nothing fits, the names stay as they are,
    and loading says what is wrong with them.

    Args:
        network: gives names and shapes.
        state: of a checkpoint.
        name: of the checkpoint, for messages.

    Raises:
        InputError: the network is there twice.
    """
    own = {bare(key): (key, tensor.shape) for key, tensor in network.state_dict().items()}
    if own.keys() <= {bare(key) for key in state} or not own:
        prefix = ""
    else:
        prefix = _prefix(state, {key: shape for key, (_, shape) in own.items()}, name)
    named, left = {}, []
    for key, tensor in state.items():
        inside = bare(key).startswith(prefix)
        short = bare(key).removeprefix(prefix)
        if inside:
            named[own[short][0] if short in own else key] = tensor
        elif key not in COUNTERS:
            left.append(key)
    if not prefix:
        return {key: tensor for key, tensor in named.items() if key not in COUNTERS}
    text = f"{name}: took {prefix!r} off the names of {len(named)} tensors"
    if left:
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        text += f", and left out {', '.join(left[:_NAMED])}{more}"
    warn(text)
    return named


def _prefix(state: Mapping[str, Tensor], own: Mapping[str, tuple[int, ...]], name: str) -> str:
    """What stands before most of the network's names in those of `state`."""
    found: Counter[str] = Counter()
    for key, tensor in state.items():
        parts = bare(key).split(".")
        for start in range(len(parts)):
            if own.get(".".join(parts[start:])) == tensor.shape:
                found[".".join([*parts[:start], ""]) if start else ""] += 1
    (first, count), *others = found.most_common(2) or [("", 0)]
    if others and others[0][1] == count > 1:
        raise InputError(
            f"{name}: holds the network twice, below {first!r} and {others[0][0]!r}; write the"
            " tensors below one of them to a file of their own"
        )
    return first if 2 * count > len(own) else ""
