"""What happens inside a DVC command, in a folder that HAST_RECORD names.

`stages` has a line for each stage that starts and for each that fails, and for an error of DVC's
that may pass, from `hast.flows.dvc_command`; `progress` has one for each step of a loop that is
shown, from `hast.engine.progress`.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hast.engine.progress import RECORD
from hast.errors import TRY_AGAIN

STARTED, FAILED, PASSES = "started", "failed", "passes"
KILLED = {-9, -15, 137, 143}  # exit codes: out of memory, or the machine goes down


class Record(NamedTuple):
    """Of a DVC command."""

    ran: bool  # whether a stage ran, and was not only taken from a cache
    may_pass: bool  # whether what went wrong may pass when it is tried again


class Progress(NamedTuple):
    """How far a loop is."""

    label: str
    done: int
    total: int | None
    rest: str  # rate, time left and values, in words


def note(*words: object) -> None:
    """Add a line to the stages, where somebody wants it."""
    if folder := os.environ.get(RECORD):
        with open(f"{folder}/stages", "a", encoding="utf-8") as file:
            print(*words, file=file)


def progress_reader(folder: Path) -> Callable[[], list[Progress]]:
    """What returns the steps that are new since it was called last."""
    path, position = folder / "progress", 0

    def news() -> list[Progress]:
        nonlocal position
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(position)
            lines = [line for line in file if line.endswith(b"\n")]
        position += sum(map(len, lines))
        return [Progress(*json.loads(line)) for line in lines]

    return news


def read_record(folder: Path) -> Record:
    """What the lines say."""
    path = folder / "stages"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    passing = {PASSES, *(f"{FAILED} {code}" for code in KILLED | {TRY_AGAIN})}
    return Record(STARTED in lines, not passing.isdisjoint(lines))
