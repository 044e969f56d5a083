"""What happened inside a DVC command: a line for each stage that starts, and for each that ends.

`stage.sh` writes them to the file that HAST_RECORD names, and `hast.flows.dvc_command` does.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from hast.errors import TRY_AGAIN

VARIABLE = "HAST_RECORD"
_STARTED = "started"
KILLED = {137, 143}  # exit codes, as a shell has them: out of memory, or the machine goes down


class Record(NamedTuple):
    """Of a DVC command."""

    ran: bool  # whether a stage ran, and was not only taken from a cache
    may_pass: bool  # whether what went wrong may pass when it is tried again


@contextmanager
def recorded() -> Iterator[Path]:
    """A file for the records of one command."""
    with TemporaryDirectory() as folder:
        yield Path(folder) / "record"


def note(who: str, what: object) -> None:
    """Add a line, where somebody wants it."""
    if path := os.environ.get(VARIABLE):
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{who} {what}\n")


def read_record(path: Path) -> Record:
    """What the lines say. A stage that started and has no end was killed with its shell."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    started = [line.split()[0] for line in lines if line.endswith(f" {_STARTED}")]
    ended = [line.split() for line in lines if not line.endswith(f" {_STARTED}")]
    codes = {int(code) for _, code in ended}
    cut_off = len(started) > sum(who != "dvc" for who, _ in ended)
    return Record(bool(started), cut_off or not codes.isdisjoint(KILLED | {TRY_AGAIN}))
