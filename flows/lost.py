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
from prefect.exceptions import PrefectException
from prefect.states import Crashed

_GRACE = timedelta(seconds=60)  # a worker may just be about to start its process
_AT_WORK = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
_AWAY = (httpx.HTTPError, PrefectException)  # the server, or a run that was deleted meanwhile
_VARIABLE = "PREFECT__FLOW_RUN_ID"  # in the environment of the process of a run


def end_lost_runs() -> list[str]:
    """Crash the runs of deployments that no process of this user on this machine belongs to, and
    their tasks, which gives their places back.

    Returns:
        Names of the runs; none where the server does not answer, which will be asked again.
    """
    with suppress(*_AWAY), get_client(sync_client=True) as client:
        old = [run for run in _runs(client) if _is_old(run)]
        alive = _alive() if old else set()
        return [run.name for run in old if str(run.id) not in alive and _crash(client, run)]
    return []


def free_places() -> None:
    """Give all places back, before any worker works: a server that kept its leases in memory, or
    was killed between a place and its lease, has left them taken."""
    with suppress(*_AWAY), get_client(sync_client=True) as client:
        for limit in client.read_global_concurrency_limits(limit=200):
            empty = GlobalConcurrencyLimitUpdate(active_slots=0)
            client.update_global_concurrency_limit(limit.name, empty)


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


def _crash(client: SyncPrefectClient, run: FlowRun) -> bool:
    """Unless it has ended since."""
    if client.read_flow_run(run.id).state_id != run.state_id:
        return False
    of = TaskRunFilter.model_validate(
        {"flow_run_id": {"any_": [run.id]}, "state": {"type": {"any_": _AT_WORK}}}
    )
    gone: State[None] = Crashed(message="its process is gone")
    for task in client.read_task_runs(task_run_filter=of):
        client.set_task_run_state(task.id, gone, force=True)
    client.set_flow_run_state(run.id, gone, force=True)
    return True
