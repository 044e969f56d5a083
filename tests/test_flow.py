"""The Prefect flow, on a real (ephemeral) Prefect server and with real DVC stages."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import child_environment, copy_project, edit_params

PROBE = """
import json, sys
from prefect.testing.utilities import prefect_test_harness
from flows.pipeline import pipeline

with prefect_test_harness(server_startup_timeout=120):
    for _ in range(int(sys.argv[1])):
        state = pipeline(return_state=True)
        print("STATE", json.dumps([state.name, state.message, state.result(False)], default=str))
"""


def run_flow(project: Path, times: int = 1) -> list[list[Any]]:
    """States of flow runs, each as name, message and result.

    In a process of its own: Prefect's server and settings are global to a process.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(times)],
        cwd=project, env=child_environment() | {"DO_NOT_TRACK": "1"},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    states = [x for x in done.stdout.splitlines() if x.startswith("STATE ")]
    assert len(states) == times, done.stdout[-3000:] + done.stderr[-3000:]
    return [json.loads(state.removeprefix("STATE ")) for state in states]


@pytest.fixture
def project(tmp_path) -> Path:
    project = copy_project(tmp_path / "project")
    edit_params(project, lambda p: p.update(bit_widths=["w4a4"]))
    return project


def test_the_flow_builds_every_stage_once_and_then_finds_them_cached(project):
    (name, _, built), (again, _, cached) = run_flow(project, times=2)
    assert name == again == "Completed"
    assert set(built.values()) == {"built"}
    assert cached.pop("inputs") == "built"  # it looks each time
    assert set(cached.values()) == {"cached"}
    order = list(built)
    assert order[:2] == ["inputs", "teacher"]
    assert order[-1] == "report"
    assert order.index("quantize@w4a4") > order.index("synthesize")
    assert (project / "report/results.md").is_file()


def test_a_stage_that_fails_gives_its_first_error_line_to_the_flow(project):
    edit_params(project, lambda p: p["teacher"].update(weights="nothing.pth"))
    ((name, message, _),) = run_flow(project)
    assert name == "Failed"
    assert "nothing.pth: no such checkpoint file" in message
    assert not (project / "artifacts/generator").exists()
