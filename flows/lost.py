"""Flow runs that nobody works at any more: Prefect would take them for running, and their places
for taken, for ever.

A process that is killed says nothing to the server, and a server that is killed hears nothing of
what ends meanwhile. `hast serve` has its server, worker and runs on one machine, so it can look.
"""

import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import httpx
import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Crashed

_GRACE = timedelta(seconds=60)  # a worker may just be about to start its process
_AT_WORK = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
_VARIABLE = "PREFECT__FLOW_RUN_ID"  # in the environment of the process of a run


def end_lost_runs() -> list[str]:
    """Crash the runs of deployments that no process on this machine belongs to, and their tasks;
    where no run is left, give all places back.

    Returns:
        Names of the runs; none where the server does not answer, which will be asked again.
    """
    with suppress(httpx.HTTPError), get_client(sync_client=True) as client:
        at_work = _runs(client)
        alive = _alive() if at_work else set()
        lost = [run for run in at_work if _is_old(run) and str(run.id) not in alive]
        for run in lost:
            _crash(client, run)
        if len(lost) == len(at_work):
            _free(client)
        return [run.name for run in lost]
    return []


def _runs(client: SyncPrefectClient) -> list[FlowRun]:
    of = FlowRunFilter.model_validate({"state": {"type": {"any_": _AT_WORK}}})
    return client.read_flow_runs(flow_run_filter=of)


def _is_old(run: FlowRun) -> bool:
    """What a deployment did not start is no worker's, such as `hast flow` in another terminal."""
    since = run.state.timestamp if run.state else None
    return bool(run.deployment_id and since and datetime.now(UTC) - since > _GRACE)


def _alive() -> set[str]:
    """Of all processes of this user that belong to a run: its id."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.environ().get(_VARIABLE, ""))
    return found


def _crash(client: SyncPrefectClient, run: FlowRun) -> None:
    of = TaskRunFilter.model_validate(
        {"flow_run_id": {"any_": [run.id]}, "state": {"type": {"any_": _AT_WORK}}}
    )
    gone: State[None] = Crashed(message="its process is gone")
    for task in client.read_task_runs(task_run_filter=of):
        client.set_task_run_state(task.id, gone, force=True)
    client.set_flow_run_state(run.id, gone, force=True)


def _free(client: SyncPrefectClient) -> None:
    for limit in client.read_global_concurrency_limits():
        if limit.active_slots:
            empty = GlobalConcurrencyLimitUpdate(active_slots=0)
            client.update_global_concurrency_limit(limit.name, empty)
