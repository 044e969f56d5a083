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
from hast.networks.fingerprint import weight_names

Shape = tuple[int, ...]
_NAMED = 3


def named_as(network: nn.Module, state: Mapping[str, Tensor], *, name: str) -> dict[str, Tensor]:
    """A state dict with the names of `network`, where it has them behind a prefix or in wrappers.

    Says what was taken off and what was left out. Of several prefixes the one counts behind which
    most of the network is. Where nothing fits, the names stay as they are, and loading says what
    is wrong with them.

    Args:
        network: gives names and shapes.
        state: of a checkpoint.
        name: of the checkpoint, for messages.

    Raises:
        InputError: the network is there twice.
    """
    own, held = network.state_dict(), weight_names(state)
    if own.keys() <= state.keys():
        return dict(state)
    wanted = weight_names(own)
    prefix = ""
    if not wanted.keys() <= held.keys():
        shapes = {short: own[key].shape for short, key in wanted.items()}
        prefix = _prefix({short: state[key].shape for short, key in held.items()}, shapes, name)
    inside = {k.removeprefix(prefix): key for k, key in held.items() if k.startswith(prefix)}
    taken_off = len(inside)
    bare = {k: key for k, key in held.items() if k in wanted.keys() - inside.keys()}
    inside |= bare  # a head that was put beside what has the prefix
    named = {wanted.get(short, key): state[key] for short, key in inside.items()}
    if prefix:
        left = [
            k for short, k in held.items() if not short.startswith(prefix) and short not in bare
        ]
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        beside = f", and left out {', '.join(left[:_NAMED])}{more}" if left else ""
        warn(f"{name}: took {prefix!r} off the names of {taken_off} tensors{beside}")
    return named


def _prefix(held: Mapping[str, Shape], own: Mapping[str, Shape], name: str) -> str:
    """What stands before most of the network's names in those of a checkpoint."""
    found: Counter[str] = Counter()
    for key, shape in held.items():
        parts = key.split(".")
        for start in range(len(parts)):
            if own.get(".".join(parts[start:])) == shape:
                found["".join(f"{part}." for part in parts[:start])] += 1
    (first, count), *others = found.most_common(2) or [("", 0)]
    if others and others[0][1] == count > 1:
        raise InputError(
            f"{name}: holds the network twice, below {first!r} and {others[0][0]!r}; write the"
            " tensors below one of them to a file of their own"
        )
    return first if 2 * count > len(own) else ""
