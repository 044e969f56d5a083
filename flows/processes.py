"""Processes of a flow run: each leads a group, and none of them outlives the run."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple


class Outcome(NamedTuple):
    """How a process ended."""

    code: int
    lines: list[str]  # of its output, errors among them
    timed_out: bool


class _Group:
    """The processes of one flow run; to stop one that has ended does nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started: list[subprocess.Popen[str]] = []
        self._stopped = False

    def add(self, process: subprocess.Popen[str]) -> None:
        with self._lock:
            self._started.append(process)
            if self._stopped:
                stop(process)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._started:
                stop(process)


_GROUP: ContextVar[_Group] = ContextVar("group")


@contextmanager
def stopped_at_exit() -> Iterator[None]:
    """Processes that tasks start inside, in any thread, are stopped when the block is left."""
    group = _Group()
    token = _GROUP.set(group)
    try:
        yield
    finally:
        group.stop()
        _GROUP.reset(token)


def run(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    timeout: float | None = None,
    on_line: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Run `python arguments…` to its end.

    Args:
        arguments: of the Python that runs here, such as ["-m", "dvc", "status"].
        environment: variables to add.
        timeout: seconds after which the process and its children are stopped.
        on_line: called with every line of output.
    """
    shown = {"PYTHONUNBUFFERED": "1"} | dict(environment or {})
    timed_out = threading.Event()

    def give_up() -> None:
        timed_out.set()
        stop(process)

    timer = threading.Timer(timeout or 0, give_up)
    lines: list[str] = []
    with guarded(
        arguments, shown, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace"
    ) as process:  # leaving the block stops it
        _GROUP.get().add(process)
        if timeout:
            timer.start()
        try:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                on_line(lines[-1])
            code = process.wait()
        finally:
            timer.cancel()
    return Outcome(code, lines, timed_out.is_set())


def guarded(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[str]:
    """Start `python arguments…` under `hast.flows.guard`: it lives no longer than this process, and
    ends with `stop`, or with the block that it is the context of. `options` are those of
    `subprocess.Popen`."""
    return subprocess.Popen(
        [sys.executable, "-m", "hast.flows.guard", sys.executable, *arguments],
        env=os.environ | {"HAST_PYTHON": sys.executable} | dict(environment or {}),
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def stop(process: subprocess.Popen[str]) -> None:
    """Tell the guard to end its command and the whole group."""
    assert process.stdin is not None
    process.stdin.close()
