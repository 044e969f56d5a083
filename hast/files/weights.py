"""Weights as safetensors, with a JSON card beside them.

No code of a file ever runs: safetensors hold tensors only, and of a PyTorch file only tensors and
plain Python are read (pickles.py).
"""

from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

from safetensors.torch import load_file, save
from torch import Tensor, nn

from hast.config.section import Section, parse_section
from hast.errors import InputError, warn
from hast.files.pickles import Stranger, read_pickle, reason_of
from hast.files.placing import write_atomically
from hast.networks.fingerprint import weight_names

WEIGHTS, CARD = "model.safetensors", "card.json"
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
_RAW = ("state_dict", "model", "model_state_dict", "net")
_AVERAGED = (
    "state_dict_ema",  # timm
    "model_ema",  # torchvision's training scripts, ConvNeXt
    "ema",  # RT-DETR, DiT
    "ema_state_dict",
    "model_ema_state_dict",
    "averaged_model",
)
_WRAPPERS = (*_RAW, "module", "averaged_model", "shadow")  # the last three inside averaged entries

CardT = TypeVar("CardT", bound=Section)


def is_checkpoint(text: str) -> bool:
    """Whether a text names a checkpoint file and not a tag of pretrained weights."""
    path = Path(text)
    return path.suffix in _SUFFIXES or len(path.parts) > 1 or path.exists()


def read_state(path: Path, entry: str = "auto") -> dict[str, Tensor]:
    """Read a state dict from safetensors or, without unpickling objects, from a PyTorch file.

    Args:
        path: the file.
        entry: where the weights are in a file that holds more, such as `state_dict`. `auto` takes
            averaged weights where they are, as the libraries that write them do to evaluate, and
            warns that there was a choice.

    Raises:
        InputError: the file is missing, corrupt, holds something else than tensors, or no such
            entry.
    """
    content = _read(path)
    entries = _entries(content)
    if entry != "auto" and entry not in entries:
        rule = f"auto or one of {', '.join(entries)}" if entries else "auto, as it has no entries"
        raise InputError(f"{path}: weights_entry must be {rule}; got {entry!r}")
    chosen = _preferred(entries, path) if entry == "auto" else entry
    state = entries[chosen] if chosen else _tensors(content)
    if state is None:
        way_out = f"; set weights_entry to one of {', '.join(entries)}" if entries else ""
        items: dict[Any, Any] = content if isinstance(content, dict) else {}
        key = next((k for k in _WRAPPERS if isinstance(items.get(k), Stranger)), None)
        found = items[key] if key else content
        if isinstance(found, Stranger):
            at = f"[{key!r}]" if key else ""
            way_out = (
                ", whose code is not run; where it can be, write its weights alone: torch.save("
                f"torch.load(..., weights_only=False){at}.state_dict(), 'weights.pth')"
            )
        elif not entries and items:
            inside = _innermost(items).items()
            other = next(k for k, v in inside if not (isinstance(k, str) and isinstance(v, Tensor)))
            way_out = f" with {other!r}, which is no named tensor"
        raise InputError(
            f"{path}: must hold a state dict of tensors, got {type(found).__name__}{way_out}"
        )
    return state


def _read(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file")
    try:
        return load_file(path) if path.suffix == ".safetensors" else read_pickle(path)
    except Exception as error:  # on garbage, torch's reader raises nearly anything
        raise InputError(
            f"{path}: not a readable checkpoint ({reason_of(error)}); it must be safetensors or a"
            " state dict that torch.load(weights_only=True) accepts"
        ) from None


def _entries(content: Any) -> dict[str, dict[str, Tensor]]:
    """The state dicts that lie beside each other in a file, by name; empty ones are none."""
    items = content.items() if isinstance(content, dict) else ()
    found = {name: _tensors(value) for name, value in items if isinstance(name, str)}
    return {name: state for name, state in found.items() if state}


def _preferred(entries: Mapping[str, dict[str, Tensor]], path: Path) -> str | None:
    """The entry to take where none is named, of those whose names are known."""
    raw, averaged = (next((n for n in names if n in entries), None) for names in (_RAW, _AVERAGED))
    if raw is None or averaged is None:
        return averaged or raw
    # Others are averages of parameters alone, without BatchNorm's statistics. And MMEngine swaps:
    # its state_dict is the average, and its ema_state_dict are the raw weights and a counter.
    if weight_names(entries[averaged]).keys() == weight_names(entries[raw]).keys():
        taken, text = averaged, f"took the averaged weights, {averaged}; `weights_entry: {raw}`"
    else:
        text = f"took {raw}, for {averaged} has other tensors; `weights_entry: {averaged}`"
        taken = raw
    warn(f"{path}: {text} takes the others")
    return taken


def load_state(network: nn.Module, state: Mapping[str, Tensor], *, name: str) -> None:
    """Load every tensor of `network` from `state`.

    Absent `num_batches_tracked` counters are allowed: they are no part of the network's function.

    Raises:
        InputError: tensors are missing, left over, or of another shape; names the first ones.
    """
    counters = {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    try:
        network.load_state_dict(counters | dict(state))
    except RuntimeError as error:
        # A line of names for each kind of problem, then one for each wrong shape.
        told = [shorten(line, 200, placeholder=" ...") for line in str(error).splitlines()[1:4]]
        kind = type(network).__name__
        raise InputError(f"{name}: weights do not fit {kind}: {' '.join(told)}") from None


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """A state dict as safetensors takes it: on the CPU, contiguous, nothing shared."""
    return {k: v.detach().cpu().contiguous().clone() for k, v in network.state_dict().items()}


def save_with_card(folder: Path, network: nn.Module, card: Section) -> None:
    """Write the state dict of `network` and its card to `folder`."""
    write_atomically(folder / WEIGHTS, save(plain_state(network)))
    write_atomically(folder / CARD, (card.model_dump_json(indent=2) + "\n").encode())


def load_card(folder: Path, card: type[CardT]) -> CardT:
    """Read and validate the card of `folder`.

    Raises:
        InputError: the card is missing or malformed.
    """
    path = folder / CARD
    try:
        return parse_section(path.read_bytes(), card, name=f"{path}: card")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run `dvc repro` first") from None


def _innermost(value: Any) -> Any:
    """What is inside of dicts that hold weights by a usual name."""
    for key in _WRAPPERS:
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    return value


def _tensors(value: Any) -> dict[str, Tensor] | None:
    """The state dict that a value is or wraps; None if it is another thing."""
    value = _innermost(value)
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        return None
    return value if all(isinstance(v, Tensor) for v in value.values()) else None
