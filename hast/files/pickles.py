"""PyTorch files, of which tensors and plain Python are read and nothing else.

Training scripts keep more than weights: arguments, paths, hyperparameters, numbers of numpy's. A
pickle names their classes, and whoever unpickles it lets them run. Here every class beyond torch's
own list of harmless ones is replaced by a stand-in that takes whatever it is given and does
nothing, so the tensors beside it can be read wherever the class is, installed or not.
"""

import re
import warnings
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from hast.errors import first_line


class Stranger:
    """Stands for an object of a class that is not read."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Any:
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


class _StrangeList(Stranger, list[Any]):
    """Torch appends to lists alone."""


class _StrangeDict(Stranger):
    """Torch sets items of dicts alone, and of no subclass."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Any:
        return OrderedDict()


def read_pickle(path: Path) -> Any:
    """What a file of `torch.save` holds, on the CPU, a `Stranger` where it is no plain Python.

    Raises:
        Exception: whatever torch's reader raises on what is no such file.
    """
    kinds: dict[str, type] = {}
    with suppress(Exception):  # of another format: one is learned after the other
        kinds |= dict.fromkeys(get_unsafe_globals_in_checkpoint(path), Stranger)
    while True:
        allowed: list[Any] = [(type(name, (kind,), {}), name) for name, kind in kinds.items()]
        try:
            # Torch warns of foreign files before it refuses them.
            with warnings.catch_warnings(action="ignore"), safe_globals(allowed):
                return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            if not _learned(str(error), kinds):
                raise


def _learned(refusal: str, kinds: dict[str, type]) -> bool:
    """Whether what torch's reader refused can be replaced by something it takes."""
    if unknown := re.search(r"GLOBAL (\S+) was not an allowed", refusal):
        name = unknown[1] if "." in unknown[1] else f"builtins.{unknown[1]}"
        kind: type = Stranger
    elif other := re.search(rf"Can only (SETITEM|append).*<class '{__name__}\.(.+)'>", refusal):
        name, kind = other[2], _StrangeDict if other[1] == "SETITEM" else _StrangeList
    else:
        return False
    is_new = kinds.get(name) is not kind
    kinds[name] = kind
    return is_new


def reason_of(error: Exception) -> str:
    """Why a file cannot be read, in a line; torch says it in many, and what matters not first."""
    text = str(error)
    if other := re.search(r"GLOBAL (\S+)", text):
        return f"it holds {other[1]}, which is not read; save the state_dict() alone"
    if "TorchScript" in text or "torchscript" in text:
        return "it is a TorchScript archive; save torch.jit.load(...).state_dict()"
    if operand := re.search(r"Unsupported operand (\d+)", text):
        if operand[1] == "149":  # where a pickle of protocol 4 begins
            return "it was written with another pickle_protocol than torch.save's own, 2"
        return "it is no file of torch.save; a web page, perhaps, or a pointer of Git LFS"
    return first_line(error)
