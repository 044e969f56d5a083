"""How hard the samples of a bank are for a student: one safetensors file."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hast.errors import InputError
from hast.files.placing import read_errors, write_atomically

_NAME = "student_difficulty"


def save_hardness(path: Path, difficulty: Tensor, *, bank: str) -> None:
    """Write difficulties (N,) with the key of the bank they belong to."""
    write_atomically(path, save({_NAME: difficulty.contiguous()}, {"bank": bank}))


def load_hardness(path: Path, *, bank: str) -> Tensor:
    """Read difficulties, (N,).

    Raises:
        InputError: the file is missing or malformed, or belongs to another bank.
    """
    with (
        read_errors(path, SafetensorError, way_out="rerun `dvc repro score`"),
        safe_open(path, framework="pt") as file,
    ):
        made_for = (file.metadata() or {}).get("bank")
        difficulty: Tensor = file.get_tensor(_NAME)
    if made_for != bank:
        raise InputError(
            f"{path}: scores belong to bank {made_for!r}, not to {bank!r}; rerun `dvc repro score`"
        )
    return difficulty
