"""Real stages killed with -9 at several points, called by hand and through `dvc repro`."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest
import stage_runs as runs
from conftest import copy_project, dvc, files, set_params, started, wait_for
from ruamel.yaml import YAML
from stage_runs import finished_shards

BANK = "artifacts/bank"
STUDENTS = {"reconstruct": "artifacts/reconstructed/w4a4", "quantize": "artifacts/students/w4a4"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A project whose bank and student were made without interruption."""
    project = copy_project(tmp_path_factory.mktemp("whole"))

    longer = {
        "bit_widths": ["w4a4"], "synthesize.samples": 64, "synthesize.steps": 40,
        "layers.quantizer": "learned", "reconstruct.steps": 8, "reconstruct.samples": 16,
        "quantize.steps": 60, "quantize.optimizer": "adamw", "quantize.schedule": "cosine",
    }  # fmt: skip
    set_params(project, longer)
    with chdir(project):
        runs.run_bank()
        runs.run_student(until="quantize")
    dvc(project, "commit", "--force", "--with-deps", "quantize")
    return project


@pytest.fixture
def project(whole, tmp_path) -> Path:
    """A copy in which the stages before the bank are done."""
    project = Path(shutil.copytree(whole, tmp_path / "project"))
    shutil.rmtree(project / ".partial")
    shutil.rmtree(project / ".dvc/cache/runs", ignore_errors=True)  # else DVC takes it from there
    return project


def forget(project: Path, stage: str) -> None:
    """Let DVC believe that a stage has never run."""
    yaml, path = YAML(), project / "dvc.lock"
    lock = yaml.load(path)
    del lock["stages"][stage]
    yaml.dump(lock, path)


def kill_when(project: Path, stage: str, condition: Callable[[], bool]) -> None:
    """Start `dvc repro` and kill it with all it started, at once, when the condition holds."""
    running = started(
        "-m", "dvc", "repro", "--single-item", stage, cwd=project,
        environment={"HAST_CHECKPOINT": "0"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: condition() or running.poll() is not None, every=0.005)
    assert running.poll() is None, "ended before it could be killed"
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()


@pytest.mark.parametrize("shards", [pytest.param(n, marks=pytest.mark.slow) for n in (0, 1)] + [3])
def test_a_bank_is_the_same_after_kill_9_and_its_finished_shards_are_kept(project, whole, shards):
    forget(project, "synthesize")
    shutil.rmtree(project / BANK)

    def enough() -> bool:
        began = any(project.glob(".partial/*/bank/bank.zarr/images/zarr.json"))
        return began and len(finished_shards(project)) >= shards

    assert not enough()
    kill_when(project, "synthesize", enough)
    assert not (project / BANK).exists()
    kept = finished_shards(project)
    dvc(project, "repro", "--single-item", "synthesize")
    assert files(project / BANK) == files(whole / BANK)
    after = finished_shards(project)
    assert {path: after[path] for path in kept} == kept
    assert len(after) == 4


def test_a_bank_killed_while_dvc_takes_it_over_costs_no_shard(project, whole):
    forget(project, "synthesize")
    shutil.rmtree(project / BANK)
    kill_when(project, "synthesize", lambda: (project / BANK / "manifest.json").is_file())
    kept = finished_shards(project)
    assert len(kept) == 4
    dvc(project, "repro", "--single-item", "synthesize")
    assert files(project / BANK) == files(whole / BANK)
    assert finished_shards(project) == kept


@pytest.mark.parametrize(
    ("stage", "checkpoints"),
    [("reconstruct", 2), pytest.param("quantize", 1, marks=pytest.mark.slow), ("quantize", 25)],
)
def test_a_student_is_the_same_after_kill_9(project, whole, stage, checkpoints):
    student = STUDENTS[stage]
    forget(project, f"{stage}@w4a4")
    shutil.rmtree(project / student)
    seen = set()

    def enough() -> bool:
        seen.update(p.stat().st_mtime_ns for p in project.glob(f".partial/{stage}-*.safetensors"))
        return len(seen) >= checkpoints

    kill_when(project, f"{stage}@w4a4", enough)
    (left,) = project.glob(f".partial/{stage}-*.safetensors")
    assert not (project / student).exists()
    printed = dvc(project, "repro", "--single-item", f"{stage}@w4a4")
    assert f"Running stage '{stage}@w4a4'" in printed
    assert files(project / student) == files(whole / student)
    for curve in ("plots/quantize/w4a4.tsv", "metrics/quantize/w4a4.json"):
        assert (project / curve).read_bytes() == (whole / curve).read_bytes()
    assert not left.exists()
