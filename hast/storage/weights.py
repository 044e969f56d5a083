"""Weights as safetensors, with a JSON card beside them.

Nothing is ever unpickled: safetensors hold tensors only, and a PyTorch file is read with
`weights_only=True`.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hast.config import Section
from hast.errors import InputError

WEIGHTS, CARD = "model.safetensors", "card.json"
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")

CardT = TypeVar("CardT", bound=Section)


def is_checkpoint(text: str) -> bool:
    """Whether a text names a checkpoint file and not a tag of pretrained weights."""
    path = Path(text)
    return path.suffix in _SUFFIXES or len(path.parts) > 1 or path.exists()


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from safetensors or, without unpickling objects, from a PyTorch file.

    A wrapper key (`state_dict`, `model`) and a `module.` prefix of every name are taken off.

    Raises:
        InputError: the file is missing, corrupt, or holds something else than tensors.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of foreign files before it refuses them
            if path.suffix == ".safetensors":
                return _without_prefix(load_file(path))
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on garbage, torch's reader raises nearly anything
        reason = str(error).splitlines()[0]
        if "Weights only load failed" in reason:
            reason = "it holds pickled objects, perhaps a whole module; save its state_dict()"
        raise InputError(
            f"{path}: not a readable checkpoint ({reason}); it must be safetensors or a state dict"
            " that torch.load(weights_only=True) accepts"
        ) from None
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"{path}: must hold a state dict of tensors, got {type(content).__name__}")
    return _without_prefix(content)


def load_state(network: nn.Module, state: Mapping[str, Tensor], *, name: str) -> None:
    """Load every tensor of `network` from `state`.

    Absent `num_batches_tracked` counters are allowed: they are no part of the network's function.

    Raises:
        InputError: tensors are missing, left over, or of another shape; names the first ones.
    """
    own = network.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unknown = [k for k in state if k not in own]
    shapes = [
        f"{k} is {tuple(state[k].shape)}, the network has {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    problems = [
        f"{what} {_first(names)}"
        for what, names in (("missing:", missing), ("unknown:", unknown), ("shapes:", shapes))
        if names
    ]
    if problems:
        raise InputError(
            f"{name}: weights do not fit {type(network).__name__}; " + "; ".join(problems)
        )
    network.load_state_dict(state, strict=False)


def save_with_card(folder: Path, network: nn.Module, card: Section) -> None:
    """Write the state dict of `network` and its card to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().cpu().contiguous().clone() for k, v in network.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    (folder / CARD).write_text(card.model_dump_json(indent=2) + "\n")


def load_card(folder: Path, card: type[CardT]) -> CardT:
    """Read and validate the card of `folder`.

    Raises:
        InputError: the card is missing or malformed.
    """
    path = folder / CARD
    try:
        return card.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run `dvc repro` first") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "content"
        raise InputError(f"{path}: {where}: {first['msg']}") from None


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in ("module.", "_orig_mod."):  # of DataParallel and of torch.compile
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _first(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
