"""Progress of a loop: a bar on a terminal, a line every few seconds anywhere else.

`HAST_QUIET=1` in the environment silences both, in this process and in those it starts.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_SHOWN_EVERY = 0.25  # seconds between updates of the bar; reading a loss waits for the device
_PRINTED_EVERY = 10.0  # seconds between lines where there is no terminal

QUIET = "HAST_QUIET"

RecordT = TypeVar("RecordT")


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
    elif sys.stderr.isatty():
        yield from _with_bar(records, total, label, fields, done)
    else:
        yield from _with_lines(records, total, label, fields, done)


def is_quiet() -> bool:
    """Whether the user asked for silence."""
    return os.environ.get(QUIET, "") not in ("", "0")


def drain(records: Iterable[Any], **options: Any) -> None:
    """Run a loop for its effect; options as of `track`."""
    for _ in track(records, **options):
        pass


class _Rate(ProgressColumn):
    """Records in a second, over the last ones."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


def _with_bar(
    records: Iterable[RecordT], total: int | None, label: str, fields: tuple[str, ...], done: int
) -> Iterator[RecordT]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=total, completed=done, values="")
        shown = 0.0
        for record in records:
            done += 1
            now = time.monotonic()
            if now - shown >= _SHOWN_EVERY or done == total:
                shown = now
                progress.update(task, completed=done, values=_values(record, fields))
            yield record


def _with_lines(
    records: Iterable[RecordT], total: int | None, label: str, fields: tuple[str, ...], done: int
) -> Iterator[RecordT]:
    start = printed = time.monotonic()
    first = done
    for record in records:
        done += 1
        now = time.monotonic()
        if now - printed >= _PRINTED_EVERY or done == total:
            printed = now
            rate = (done - first) / max(now - start, 1e-9)
            left = "" if total is None else f", {(total - done) / rate:.0f} s left"
            line = f"{label}: {done}/{total or '?'}, {rate:.1f}/s{left} {_values(record, fields)}"
            print(line.rstrip(), file=sys.stderr, flush=True)
        yield record


def _values(record: Any, fields: tuple[str, ...]) -> str:
    return " ".join(f"{field}={float(getattr(record, field)):.4g}" for field in fields)
