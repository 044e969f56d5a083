"""The Prefect flow, on a real (temporary) Prefect server and with real DVC stages."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import commit_all, copy_project, dvc, git, set_params
from light_project import light_project, run_flows, two_gpus


def note(project: Path, name: str, folder: str = "out") -> dict[str, Any]:
    return dict(json.loads((project / folder / f"{name}.json").read_text()))


@pytest.mark.slow
def test_matrix_items_run_side_by_side_each_on_a_gpu_of_its_own(prefect, tmp_path):
    project = light_project(tmp_path / "project")
    path = two_gpus(tmp_path / "bin")
    first, again = run_flows(prefect, (project, "touch meet", {}), (project, "true", {}), path=path)
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


def test_one_device_takes_one_task_and_only_what_can_pass_is_tried_again(prefect, tmp_path):
    project = light_project(tmp_path / "project")
    quick = {"retries": 2, "retry_delay_seconds": 0.1}
    params = (project / "params.yaml").read_text()
    override = {"overrides": {"quantize.alignment_weight": 500}}
    built, forced, exhausted, wrong, bad = run_flows(
        prefect,
        (project, "echo 75 > once-a", quick),
        (project, "cp -r out kept", {"targets": ["work@a"], "force": True} | override),
        (project, "echo 75 > fail-first", quick | {"targets": ["first"], "force": True}),
        (project, "echo 2 > fail-first", quick | {"targets": ["first"], "force": True}),
        (project, "true", {"overrides": {"quantize.steps": -1}}),
    )
    a, b = note(project, "a", "kept"), note(project, "b", "kept")
    assert a["end"] < b["start"] or b["end"] < a["start"]  # one CPU, one task
    assert built[2] == dict.fromkeys(["first", "work@a", "work@b", "last"], "Built")
    assert built[3]["work@a"][:3] == ["Completed", "work@a was built", 2]
    assert forced[2] == {"first": "Cached", "work@a": "Built"}  # only the targets are forced
    assert exhausted[3]["first"][:3] == ["Failed", "error: first: told to fail", 3]
    assert exhausted[:2] == ["Failed", "error: first: told to fail"]
    assert wrong[3]["first"][:3] == ["Failed", "error: first: told to fail", 1]
    assert bad[0] == "Failed"
    assert bad[1].startswith("error: params.yaml: quantize.steps: Input should be greater")
    assert bad[3] == {}
    assert (project / "params.yaml").read_text() == params


def test_a_second_clone_with_the_same_remote_skips_what_the_first_has_built(prefect, tmp_path):
    project, clone = light_project(tmp_path / "project"), tmp_path / "clone"
    dvc(project, "remote", "add", "--default", "shared", str(tmp_path / "remote"))
    commit_all(project, "remote")
    git(tmp_path, "clone", "-q", "project", "clone")
    only = {"targets": ["work@a"]}
    first, second = run_flows(
        prefect,
        (project, "true", only),
        (clone, f"rm -r {project}", only),  # the other machine is gone
    )
    assert first[2] == {"first": "Built", "work@a": "Built"}
    assert second[2] == {"first": "Cached", "work@a": "Cached"}
    assert note(clone, "a")


def test_what_a_remote_that_was_away_has_missed_the_next_run_sends(prefect, tmp_path):
    project, clone = light_project(tmp_path / "project"), tmp_path / "clone"
    remote = tmp_path / "remote"
    dvc(project, "remote", "add", "--default", "shared", str(remote))
    commit_all(project, "remote")
    git(tmp_path, "clone", "-q", "project", "clone")
    remote.write_text("no folder")
    options = {"targets": ["first"], "retries": 0}
    away, back, second = run_flows(
        prefect,
        (project, "true", options),
        (project, f"rm {remote}", options),
        (clone, f"rm -r {project}", options),
    )
    assert away[0] == "Failed"
    assert "failed to transfer" in away[1]
    assert [back[2], second[2]] == [{"first": "Cached"}] * 2


@pytest.mark.slow
def test_the_real_stages_are_built_once_and_publish_their_artifacts(prefect, tmp_path):
    project = copy_project(tmp_path / "project")
    set_params(project, {"bit_widths": ["w4a4"]})
    first, again, failed = run_flows(
        prefect,
        (project, "true", {}),
        (project, "true", {"overrides": {"quantize.alignment_weight": 500}}),
        (project, "true", {"overrides": {"teacher.weights": "nothing.pth"}}),
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
