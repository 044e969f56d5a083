"""The pipeline as a Prefect flow: one task a DVC stage, run by DVC with its lock file and cache.

Prefect gives order, schedule, retries, logs and workers; what has to be rebuilt is DVC's decision.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import State, flow, get_run_logger, task
from prefect.futures import PrefectFuture
from prefect.states import Failed

from hast.config.params import check_params
from hast.errors import InputError, clear_errors
from hast.flows.artifacts import publish
from hast.flows.commands import TASK, Delay, Retries, Timeout, dvc, retrying, state_of
from hast.flows.devices import shared_out
from hast.flows.plan import Stage, has_remote, stages_in_order
from hast.flows.processes import stopped_at_exit
from hast.flows.workspace import workspace
from hast.stages.entry import PARAMS

_UNSENT = Path(".dvc/tmp/hast-unsent")  # a file for each stage whose run the remote may not know


@task(task_run_name="{stage}", **TASK)
def run_stage(
    stage: str,
    *,
    devices: Sequence[str] = (),
    force: bool = False,
    share: bool = False,
    timeout_seconds: float | None = None,
) -> State[Any]:
    """Let DVC bring one stage up to date. The state says whether it was built or cached.

    Args:
        stage: as DVC addresses it.
        devices: tags of those that the stage may use.
        force: build it even if it is up to date.
        share: take what others have made from the remote first, and give it what was made here.
        timeout_seconds: after which the stage is stopped.
    """
    unsent = _UNSENT / stage.replace("/", ":")
    sends_run = unsent.exists()
    unsent.parent.mkdir(exist_ok=True)
    unsent.touch()  # before it is built: killed in between, the run would never be sent
    options = ["--force"] * force + ["--pull", "--allow-missing"] * share
    command = ("repro", "--single-item", *options, stage)
    done = dvc(*command, devices=devices, timeout=timeout_seconds)
    state = state_of(done, name=stage, timeout=timeout_seconds)
    if state.is_completed():
        for transfer in _transfers(stage, state, sends_run=sends_run) if share else []:
            moved = dvc(*transfer)
            if moved.outcome.code:
                return state_of(moved, name=f"{transfer[0]} of {stage}")
        if share:
            unsent.unlink(missing_ok=True)
        _publish(stage)
    return state


def _transfers(stage: str, state: State[Any], *, sends_run: bool) -> list[list[str]]:
    """DVC commands that fetch what is shown and share what was built.

    All runs of the run cache are sent each time, so it goes along only where it has grown, or an
    earlier run could not send it.
    """
    cached = state.name == "Cached"
    fetch = [["pull", stage]] if cached and stage == "report" else []  # small, and always shown
    return [*fetch, ["push", *["--run-cache"] * (sends_run or not cached), stage]]


def _publish(stage: str) -> None:
    try:
        publish(stage)
    except Exception:  # a picture is no reason to lose a stage that was built
        get_run_logger().warning("No artifact of %s", stage, exc_info=True)


@flow(name="hast-pipeline")
def pipeline(
    overrides: dict[str, Any] | None = None,
    targets: list[str] | None = None,
    force: bool = False,
    share: bool | None = None,
    retries: Retries = 4,
    retry_delay_seconds: Delay = 15.0,
    stage_timeout_seconds: Timeout | None = None,
) -> Any:
    """Bring the stages up to date, those that do not need each other at the same time.

    Args:
        overrides: parameters of this run alone, such as {"quantize.alignment_weight": 500}.
        targets: stages to bring up to date, with what they need; none means all.
        force: build the targets even if they are up to date.
        share: pull before and push after every stage; by default where DVC has a default remote.
        retries: how often a stage is tried again after what can pass, such as a full GPU; at most
            50.
        retry_delay_seconds: before the first of them; it doubles each time, up to an hour.
        stage_timeout_seconds: after which a stage is stopped and fails.

    Returns:
        By stage `Built` or `Cached`; where one failed, a failed state with its message.
    """
    try:
        with workspace(overrides or {}), stopped_at_exit():
            check_params(PARAMS)
            states = _run(
                stages_in_order(targets or []),
                run_stage.with_options(**retrying(retries, retry_delay_seconds)),
                force=force,
                share=has_remote() if share is None else share,
                timeout_seconds=stage_timeout_seconds,
            )
    except InputError as error:  # what a user can mend
        return Failed(message=f"error: {error}")
    bad = [state for state in states.values() if state.is_failed() or state.is_crashed()]
    if bad:
        return Failed(message=bad[0].message)
    return {name: "Cached" if s.name == "Cached" else "Built" for name, s in states.items()}


def _run(
    stages: Sequence[Stage], job: Any, *, force: bool, **options: Any
) -> dict[str, State[Any]]:
    """Submit every stage as soon as what it needs is submitted, and wait for all."""
    shares = shared_out([stage.item for stage in stages])
    futures: dict[str, PrefectFuture[Any]] = {}
    for stage in stages:
        own = shares[stage.item] if stage.computes else []
        futures[stage.name] = job.with_options(tags=["gpu", *own] if own else []).submit(
            stage.name,
            devices=own,
            force=force and stage.is_target,
            wait_for=[futures[name] for name in stage.needs],
            **options,
        )
    for future in futures.values():
        future.wait()
    return {name: future.state for name, future in futures.items()}


if __name__ == "__main__":
    with clear_errors("flows.pipeline"):
        raise InputError("`hast flow` runs it, and has its options")
