"""Images in a second by the size of a batch, up to what the device's memory holds.

    python -m bench.batches --last 16384

ResNet-20 at 32 x 32, both loops, with the engine of long ones. Writes bench/out/batches.json.
"""

import statistics
from collections.abc import Iterator
from typing import NamedTuple

import torch
import typer

from bench.machine import describe
from bench.run import CASES, OUT, WARM_UP, engine_steps, seconds, setting
from hast.engine.engine import choose_engine, select_device
from hast.files.tables import write_json
from hast.report.tables import markdown_rows

_STEPS = 5


class Line(NamedTuple):
    task: str
    batch: int
    milliseconds: float  # of a step, median
    images: float  # in a second
    peak_mb: float  # of the device; 0 on a CPU


def main(first: int = 64, last: int = 16384) -> None:
    device = select_device("auto")
    lines = [
        line for task in ("synthesis", "fine-tuning") for line in rise(task, first, last, device)
    ]
    cells = [[x.task, str(x.batch), f"{x.milliseconds:.1f}", f"{x.images:,.0f}", f"{x.peak_mb:.0f}"]
             for x in lines]  # fmt: skip
    print(markdown_rows([["step", "batch", "ms", "images a second", "MB"], *cells], left=1))
    found = {"machine": describe(device), "lines": [line._asdict() for line in lines]}
    write_json(OUT / "batches.json", found)


def rise(task: str, batch: int, last: int, device: torch.device) -> Iterator[Line]:
    """Twice as large a batch each time, until one does not fit."""
    engine = choose_engine(device, work=float("inf"))
    while batch <= last:
        case = CASES[0]._replace(synthesis_batch=batch, finetune_batch=batch)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        try:
            spec, _, fast, images = setting(case, device)
            steps = engine_steps(task, case, spec, fast, images, engine)
            for _ in range(WARM_UP):
                seconds(steps, device)
            took = statistics.median(seconds(steps, device) for _ in range(_STEPS))
        except torch.OutOfMemoryError:
            return
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
        yield Line(task, batch, 1e3 * took, batch / took, peak / 1e6)
        batch *= 2


if __name__ == "__main__":
    typer.run(main)
