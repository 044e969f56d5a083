"""The Prefect flow, on a real (temporary) Prefect server and with real DVC stages."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import commit_all, copy_project, dvc, edit_params, git
from light_project import light_project, run_probe, two_gpus

# Runs the flow once for each set of parameters; between two runs the project may be changed by
# the shell command that goes with them.
PROBE = """
import json, subprocess, sys
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness
from flows.pipeline import pipeline

with prefect_test_harness(server_startup_timeout=240):
    for before, parameters in json.loads(sys.argv[1]):
        subprocess.run(before, shell=True, check=True)
        state = pipeline(return_state=True, **parameters)
        with get_client(sync_client=True) as client:
            tasks = {
                task.name: [task.state_name, task.state.message, task.run_count, task.tags]
                for task in client.read_task_runs()
                if task.flow_run_id == state.state_details.flow_run_id
            }
            artifacts = [artifact.key for artifact in client.read_artifacts()]
        shown = [state.name, state.message, state.result(False), tasks, artifacts]
        print("STATE", json.dumps(shown, default=str))
"""


def run_flows(project: Path, *runs: tuple[str, dict[str, Any]], path: str = "") -> list[list[Any]]:
    """Of every run: name, message and result of its state, its tasks, keys of all artifacts."""
    states = run_probe(project, PROBE, runs, path=path)
    assert len(states) == len(runs)
    return states


def note(project: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((project / f"out/{name}.json").read_text()))


@pytest.mark.slow
def test_matrix_items_run_side_by_side_each_on_a_gpu_of_its_own(tmp_path):
    project = light_project(tmp_path / "project")
    path = two_gpus(tmp_path / "bin")
    first, again = run_flows(project, ("touch meet", {}), ("true", {}), path=path)
    assert first[2] == dict.fromkeys(["first", "work@a", "work@b", "last"], "Built")
    a, b = note(project, "a"), note(project, "b")
    assert a["start"] < b["end"]
    assert b["start"] < a["end"]
    assert {a["gpus"], b["gpus"]} == {"GPU-one", "GPU-two"}
    assert note(project, "first")["gpus"] == "GPU-one,GPU-two"
    assert note(project, "last")["start"] > max(a["end"], b["end"])
    tags = {name: set(task[3]) for name, task in first[3].items()}
    assert tags["first"] == {"gpu", "gpu:GPU-one", "gpu:GPU-two"}
    assert tags["work@a"] ^ tags["work@b"] == {"gpu:GPU-one", "gpu:GPU-two"}
    assert {"progress-a", "progress-b"} <= set(first[4])
    assert [again[2], again[3]["work@a"][0]] == [dict.fromkeys(again[2], "Cached"), "Cached"]


def test_one_device_takes_one_task_and_only_what_can_pass_is_tried_again(tmp_path):
    project = light_project(tmp_path / "project")
    quick = {"retries": 2, "retry_delay_seconds": 0.1}
    params = (project / "params.yaml").read_text()
    built, passes, exhausted, wrong, other, bad = run_flows(
        project,
        ("echo 75 > once-a", quick),
        ("echo 75 > once-last", quick | {"targets": ["last"], "force": True}),
        ("echo 75 > fail-last", quick | {"targets": ["last"], "force": True}),
        ("echo 2 > fail-last", quick | {"targets": ["last"], "force": True}),
        ("true", {"targets": ["work@a"], "overrides": {"quantize.alignment_weight": 500}}),
        ("true", {"overrides": {"quantize.steps": -1}}),
    )
    a, b = note(project, "a"), note(project, "b")
    assert a["end"] < b["start"] or b["end"] < a["start"]  # one CPU, one task
    assert built[3]["work@a"][2] == 2
    assert passes[3]["last"][:3] == ["Completed", "last was built", 2]
    assert passes[3]["first"][0] == "Cached"  # only the targets are forced
    assert exhausted[3]["last"][:3] == ["Failed", "error: last: told to fail", 3]
    assert exhausted[:2] == ["Failed", "error: last: told to fail"]
    assert wrong[3]["last"][:3] == ["Failed", "error: last: told to fail", 1]
    assert other[0] == "Completed"
    assert set(other[2]) == {"first", "work@a"}
    assert bad[0] == "Failed"
    assert bad[1].startswith("error: params.yaml: quantize.steps: Input should be greater")
    assert bad[3] == {}
    assert (project / "params.yaml").read_text() == params


def test_a_second_clone_with_the_same_remote_skips_what_the_first_has_built(tmp_path):
    project = light_project(tmp_path / "project")
    dvc(project, "remote", "add", "--default", "shared", str(tmp_path / "remote"))
    commit_all(project, "remote")
    git(tmp_path, "clone", "-q", "project", "clone")
    clone = tmp_path / "clone"
    ((_, _, built, _, _),) = run_flows(project, ("true", {}))
    assert set(built.values()) == {"Built"}
    shutil.rmtree(project)  # the other machine is gone
    ((_, _, found, _, _),) = run_flows(clone, ("true", {}))
    assert found == dict.fromkeys(built, "Cached")
    assert note(clone, "last")


@pytest.mark.slow
def test_the_real_stages_are_built_once_and_publish_their_artifacts(tmp_path):
    project = copy_project(tmp_path / "project")
    edit_params(project, lambda p: p.update(bit_widths=["w4a4"]))
    first, again, failed = run_flows(
        project,
        ("true", {}),
        ("true", {"overrides": {"quantize.alignment_weight": 500}}),
        ("true", {"overrides": {"teacher.weights": "nothing.pth"}}),
    )
    assert set(first[2].values()) == {"Built"}
    order = list(first[2])
    assert order[0] == "inputs"
    assert order[-1] == "report"
    assert {"results", "accuracy-history", "samples", "difficulty-w4a4", "report"} <= set(first[4])
    assert "progress-synthesize" in first[4]
    rebuilt = {name for name, state in again[2].items() if state == "Built"}
    assert {"inputs", "quantize@w4a4"} <= rebuilt  # inputs looks each time
    assert rebuilt.isdisjoint({"teacher", "generator", "synthesize", "score@w4a4"})
    assert "nothing.pth: no such checkpoint file" in failed[1]
    assert failed[3]["teacher"][0] == "NotReady"
