"""Metrics as JSON and curves as TSV: the plain files that `dvc metrics` and `dvc plots` read.

Wall times of stages and latency of what they export are kept outside DVC: they differ from run to
run, and artifacts must not.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hast.errors import InputError
from hast.files.placing import write_atomically

_CURVE_ROWS = 200
_TIMINGS = Path(".timings")
_LATENCY = _TIMINGS / "latency"
_EXPORTS = Path("metrics/export")  # the default of dvc.yaml


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


class Latency(NamedTuple):
    """How long a student's ONNX file takes, beside full precision."""

    runtime: str  # `onnxruntime` or `openvino`
    milliseconds: Mapping[str, Mapping[str, float]]  # by `fp32` and `onnx`, then by batch


class Timing(NamedTuple):
    stage: str
    seconds: float
    finished: float  # seconds since the epoch


def record_timing(stage: str, seconds: float) -> None:
    """Remember how long `stage` took in the current folder's project."""
    write_json(_TIMINGS / f"{stage}.json", {"seconds": seconds})


def read_timings() -> list[Timing]:
    """The latest time of every stage that ran here, in the order in which they finished."""
    timings = [
        Timing(path.stem, read_json(path)["seconds"], path.stat().st_mtime)
        for path in _TIMINGS.glob("*.json")
    ]
    return sorted(timings, key=lambda timing: timing.finished)


def record_latency(bits: str, exported: Mapping[str, Any], latency: Latency) -> None:
    """Remember how long a student's file takes on this machine.

    Args:
        bits: of the student.
        exported: the metrics of its export, which tell it from others.
        latency: what was measured.
    """
    write_json(_LATENCY / f"{bits}.json", {"of": exported, **latency._asdict()})


def read_latency(widths: Iterable[str]) -> dict[str, Latency]:
    """What was measured here, by width in capitals, of those students that still lie here: DVC may
    have put others in their place, from its cache."""
    found = {}
    for bits in widths:
        measured, exported = _LATENCY / f"{bits}.json", _EXPORTS / f"{bits}.json"
        if measured.is_file() and exported.is_file():
            record = read_json(measured)
            if record["of"] == read_json(exported) and "runtime" in record:  # else of old
                found[bits.upper()] = Latency(record["runtime"], record["milliseconds"])
    return found


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path}: no such file; run `dvc repro`, which writes it")
    return path


def _shorten(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
