"""Wall times of stages, kept outside DVC: they differ from run to run, and artifacts must not."""

from pathlib import Path
from typing import NamedTuple

from hast.storage.tables import read_json, write_json

TIMINGS = Path(".timings")


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
