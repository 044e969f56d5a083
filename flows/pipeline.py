"""The pipeline as a Prefect flow: one task a DVC stage, run by DVC with its lock file and cache."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM
from typing import Any

import networkx as nx
from dvc.repo import Repo
from prefect import State, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed

from hast.errors import clear_errors
from stages.entry import PARAMS
from stages.params import check_params


def stages_in_order() -> list[str]:
    """Names of all stages of the current folder's project, dependencies first."""
    with Repo() as repo:
        # An edge points from a stage to what it depends on.
        order = nx.dfs_postorder_nodes(repo.index.graph)
        return [stage.addressing for stage in order]


@task(task_run_name="{stage}", cache_policy=NO_CACHE, persist_result=False)
def run_stage(stage: str) -> State[Any]:
    """Let DVC bring one stage up to date. The state says whether it was built or cached."""
    logger = get_run_logger()
    lines = []
    with _dvc("repro", "--single-item", stage) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            logger.info(line.rstrip())
    if process.returncode:
        reason = next((x for x in lines if x.startswith("error:")), lines[-1] if lines else "")
        return Failed(message=reason)
    skipped = any(f"Stage '{stage}'" in x and "skipping" in x for x in lines)
    return Completed(message="cached" if skipped else "built")


@flow(name="hast-pipeline")
def pipeline() -> dict[str, str]:
    """Bring all stages up to date; stops at the first that fails.

    Returns:
        For every stage whether it was built or cached.
    """
    check_params(PARAMS)
    outcome = {}
    for stage in stages_in_order():
        state = run_stage(stage, return_state=True)
        state.result()  # raises where the stage failed
        outcome[stage] = str(state.message)
    return outcome


@contextmanager
def _dvc(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A DVC process in a process group of its own, so that its stage can be stopped with it."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
        process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, SIGTERM)
            process.wait()


if __name__ == "__main__":
    with clear_errors("flow"):
        pipeline()
