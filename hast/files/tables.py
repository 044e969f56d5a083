"""Metrics as JSON and curves as TSV: the plain files that `dvc metrics` and `dvc plots` read."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hast.errors import InputError
from hast.files.placing import write_atomically

_CURVE_ROWS = 200


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_atomically(path, (json.dumps(values, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: there is no such file.
    """
    values: dict[str, Any] = json.loads(_existing(path).read_text())
    return values


def write_tsv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_shorten(v) for v in row] for row in rows)
    write_atomically(path, text.getvalue().encode())


def read_tsv(path: Path) -> list[dict[str, str]]:
    """Rows by column name, as text.

    Raises:
        InputError: there is no such file.
    """
    with _existing(path).open(newline="") as file:
        return [*csv.DictReader(file, delimiter="\t")]


class Curve:
    """Keeps evenly spaced records of a loop for a plot."""

    def __init__(self, total: int, record: Callable[..., NamedTuple]) -> None:
        """
        Args:
            total: records of the whole loop.
            record: their class.
        """
        self._record: Any = record
        self._every = max(1, -(-total // _CURVE_ROWS))
        self._total = total
        self._seen = 0
        self.rows: list[tuple[int, NamedTuple]] = []

    def add(self, record: NamedTuple) -> None:
        if self._seen % self._every == 0 or self._seen == self._total - 1:
            self.rows.append((self._seen, record))
        self._seen += 1

    def saved(self) -> list[list[float]]:
        """The rows so far as plain numbers, the step first."""
        return [[step, *map(float, record)] for step, record in self.rows]

    def restore(self, rows: Iterable[Sequence[float]], seen: int) -> None:
        """Go on after `seen` records of which these rows were kept."""
        self.rows = [(int(step), self._record(*values)) for step, *values in rows]
        self._seen = seen

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        """Column names and rows, numbers read back from the device."""
        return ("step", *self._record._fields), self.saved()


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path}: no such file; run `dvc repro`, which writes it")
    return path


def _shorten(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
