"""DVC as a process: one stage, or what goes to and from the remote, what it shows, and what an end
means."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple
from uuid import UUID

from prefect import State, get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed
from pydantic import Field

from hast.engine.progress import RECORD
from hast.flows.devices import environment_of
from hast.flows.processes import Outcome, run
from hast.flows.records import KILLED, Record, progress_reader, read_record

# Without the option DVC gives up after three seconds where another command holds the lock of the
# repository, and with it what a stage has just made. The lock is free while a stage runs.
_DVC = ("-m", "hast.flows.dvc_command", "--wait-for-lock")

_MAY_PASS = "may pass"  # data of a failed state: the same may pass when it is tried again

# Prefect keeps at most 50 delays of a task.
Retries = Annotated[int, Field(ge=0, le=50)]
Delay = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # seconds
Timeout = Annotated[float, Field(gt=0, allow_inf_nan=False)]  # seconds
_LONGEST_DELAY = 3600.0


class Done(NamedTuple):
    """A DVC command that has ended."""

    outcome: Outcome
    record: Record


def dvc(*arguments: str, devices: Sequence[str] = (), timeout: float | None = None) -> Done:
    """Run a DVC command in the current folder's project, and show what it prints.

    Args:
        arguments: such as repro, STAGE.
        devices: tags of those that its stages may use.
        timeout: seconds after which it is stopped.
    """
    with TemporaryDirectory() as folder:
        record = Path(folder)
        environment = environment_of(devices) | {RECORD: str(record)}
        command = [*_DVC, *arguments]
        outcome = run(command, environment=environment, timeout=timeout, on_line=_shown(record))
        return Done(outcome, read_record(record))


def _shown(record: Path) -> Callable[[str], None]:
    """What shows one line of output after the other in the log of the task run, and what is new in
    the record as bars."""
    bars: dict[str, UUID] = {}
    logger, news = get_run_logger(), progress_reader(record)

    def show(line: str) -> None:
        if line:
            logger.info(line)
        for label, done, total, rest in news():
            if total is None:
                continue
            percent, text = 100 * done / total, f"{label}: {done} of {total}, {rest}"
            if label in bars:
                update_progress_artifact(bars[label], percent, description=text)
            else:
                key = "progress-" + re.sub("[^a-z0-9]+", "-", label.lower()).strip("-")
                bar = create_progress_artifact(percent, key=key, description=text)
                assert isinstance(bar, UUID)  # a coroutine only in an asynchronous task
                bars[label] = bar

    return show


def state_of(done: Done, *, name: str, timeout: float | None = None) -> State[Any]:
    """What Prefect shows for the end of a command: why it failed, built, or cached."""
    outcome, record = done
    if outcome.timed_out:
        return Failed(name="TimedOut", message=f"{name}: stopped after {timeout:g} s")
    if outcome.code:
        passing = record.may_pass or outcome.code in KILLED
        return Failed(message=_reason(outcome.lines), data=_MAY_PASS if passing else None)
    if not record.ran:
        return Completed(name="Cached", message=f"{name} was up to date")
    return Completed(message=f"{name} was built")


def may_pass(task: Any, run: Any, state: State[Any]) -> bool:
    """Whether Prefect should try again."""
    return state.data == _MAY_PASS


# Options of every task.
TASK: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "retry_condition_fn": may_pass,
    "retry_jitter_factor": 0.3,
}


def retrying(retries: int, delay: float) -> dict[str, Any]:
    """Options of a task that is tried again: the delay doubles each time, up to an hour.

    Args:
        retries: how often.
        delay: seconds before the first of them.
    """
    longest = max(delay, _LONGEST_DELAY)
    delays = [min(delay * 2**n, longest) for n in range(retries)]
    return {"retries": retries, "retry_delay_seconds": delays}


def _reason(lines: Sequence[str]) -> str:
    """The first line that says what is wrong: the stage's own, else DVC's."""
    said = (line for start in ("error:", "ERROR:") for line in lines if line.startswith(start))
    return next(said, lines[-1] if lines else "no output")
