"""What keeping freed memory gives: the engine's steps with and without, one process after another.

    python -m bench.kept_memory

ResNet-20 at 32 x 32 on the CPU. Prints a table; the figure of a process is the median of its steps.
"""

import resource
import statistics
import subprocess
import sys
from typing import NamedTuple

import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.machine import describe
from bench.run import CASES, engine_steps, seconds, setting
from hast.engine import choose_engine
from hast.runtime import keep_freed_memory

ROUNDS, WARM_UP, STEPS = 3, 3, 12
TASKS = ("synthesis", "fine-tuning")


class Cost(NamedTuple):
    ms: float  # of a step
    pages: float  # that the system had to clear for it
    megabytes: float  # most that the process held


def main(task: str = "", keep: bool = False) -> None:
    """Without TASK: all of it, in processes of their own."""
    if task:
        print(*measure(task, keep=keep))
        return
    table = Table(title=str(describe(torch.device("cpu"))))
    for column in ("step", "memory", "ms", "pages", "MB"):
        table.add_column(column, justify="right")
    for name in TASKS:
        costs: dict[bool, list[Cost]] = {False: [], True: []}
        for _ in range(ROUNDS):
            for kept, found in costs.items():
                found.append(measured_elsewhere(name, keep=kept))
        for kept, found in costs.items():
            ms, pages, megabytes = map(statistics.median, zip(*found, strict=True))
            word = "kept" if kept else "handed back"
            table.add_row(name, word, f"{ms:.0f}", f"{pages:.0f}", f"{megabytes:.0f}")
    Console().print(table)


def measured_elsewhere(task: str, *, keep: bool) -> Cost:
    flag = "--keep" if keep else "--no-keep"
    command = [sys.executable, "-m", "bench.kept_memory", "--task", task, flag]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Cost(*map(float, done.stdout.split()))


def measure(task: str, *, keep: bool) -> Cost:
    if keep:
        keep_freed_memory()
    device, case = torch.device("cpu"), CASES[0]
    spec, _, teacher, images = setting(case, device)
    engine = choose_engine(device, work=float("inf"))
    loop = engine_steps(task, case, spec, teacher, images, engine)
    for _ in range(WARM_UP):
        next(loop)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    ms = 1e3 * statistics.median(seconds(loop, device) for _ in range(STEPS))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return Cost(ms, (usage.ru_minflt - before) / STEPS, usage.ru_maxrss / 1024)


if __name__ == "__main__":
    typer.run(main)
