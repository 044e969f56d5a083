"""Progress of a loop: a bar on a terminal, a line every few seconds anywhere else.

`HAST_QUIET=1` in the environment silences both, in this process and in those it starts. Where it
names a folder as `HAST_RECORD`, as flows do, the lines also go to a file there, for programs.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any, TypeVar

from rich import progress as bars
from rich.console import Console
from rich.text import Text

_SHOWN_EVERY = 0.25  # seconds between updates of the bar; reading a loss waits for the device
_PRINTED_EVERY = 10.0  # seconds between lines where there is no terminal

QUIET = "HAST_QUIET"
RECORD = "HAST_RECORD"

RecordT = TypeVar("RecordT")
Tell = Callable[[int, float, str], None]  # how many are done, seconds, values of the last one


def track(
    records: Iterable[RecordT],
    *,
    total: int | None,
    label: str,
    fields: tuple[str, ...] = (),
    done: int = 0,
    show: bool = True,
) -> Iterator[RecordT]:
    """Pass records through and show how far they are.

    Args:
        records: what a loop yields.
        total: how many there will be, those already done included; None where nobody knows.
        label: what is being done.
        fields: attributes of a record to show, such as `loss`.
        done: records that an earlier run has finished.
        show: False passes the records through in silence.
    """
    if not show or is_quiet():
        yield from records
        return
    terminal = sys.stderr.isatty()
    every = _SHOWN_EVERY if terminal else _PRINTED_EVERY
    start = time.monotonic()
    told = -inf if terminal else start
    with (_bar if terminal else _lines)(label, total, done) as tell:
        for record in records:
            done += 1
            now = time.monotonic()
            if now - told >= every or done == total:
                told = now
                values = " ".join(f"{f}={float(getattr(record, f)):.4g}" for f in fields)
                tell(done, now - start, values)
            yield record


def is_quiet() -> bool:
    """Whether the user asked for silence."""
    return os.environ.get(QUIET, "") not in ("", "0")


def drain(records: Iterable[Any], **options: Any) -> None:
    """Run a loop for its effect; options as of `track`."""
    for _ in track(records, **options):
        pass


class _Rate(bars.ProgressColumn):
    """Records in a second, over the last ones."""

    def render(self, task: bars.Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


@contextmanager
def _bar(label: str, total: int | None, done: int) -> Iterator[Tell]:
    count = ("{task.description}", bars.BarColumn(), bars.MofNCompleteColumn(), _Rate())
    time_left = (bars.TimeElapsedColumn(), "left", bars.TimeRemainingColumn())
    columns = (*count, *time_left, "{task.fields[values]}")
    with bars.Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=total, completed=done, values="")
        yield lambda done, _, values: progress.update(task, completed=done, values=values)


@contextmanager
def _lines(label: str, total: int | None, first: int) -> Iterator[Tell]:
    def tell(done: int, seconds: float, values: str) -> None:
        rate = (done - first) / max(seconds, 1e-9)
        left = "" if total is None else f", {(total - done) / rate:.0f} s left"
        rest = f"{rate:.1f}/s{left} {values}".rstrip()
        print(f"{label}: {done}/{total or '?'}, {rest}", file=sys.stderr, flush=True)
        if folder := os.environ.get(RECORD):
            with open(f"{folder}/progress", "a", encoding="utf-8") as file:
                file.write(f"{json.dumps([label, done, total, rest])}\n")

    yield tell
