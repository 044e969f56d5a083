"""Wall times of stages and latency of what they export, kept outside DVC: they differ from run to
run, and artifacts must not."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hast.files.tables import read_json, write_json

TIMINGS = Path(".timings")
_LATENCY = TIMINGS / "latency"
_EXPORTS = Path("metrics/export")  # the default of dvc.yaml


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
    write_json(TIMINGS / f"{stage}.json", {"seconds": seconds})


def read_timings() -> list[Timing]:
    """The latest time of every stage that ran here, in the order in which they finished."""
    timings = [
        Timing(path.stem, read_json(path)["seconds"], path.stat().st_mtime)
        for path in TIMINGS.glob("*.json")
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
