"""Several processes make what one makes."""

import shutil
import subprocess
from pathlib import Path

import psutil
import pytest
import torch
from conftest import ROOT, files, set_params, started, wait_for
from safetensors.torch import load_file
from stage_runs import A, finished_shards, options_of, run, run_synthesize

from hast.errors import NonFiniteLossError

SYNTHESIZE = ["-m", "hast.stages.synthesize", "--workers", "2"]
SYNTHESIZE += [f"--{name}={value}" for name, value in options_of("synthesize").items()]


@pytest.fixture(autouse=True)
def stages_importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_two_processes_write_the_bank_of_one_and_a_killed_one_costs_only_its_shard(begun):
    set_params(begun, {"synthesize.samples": 64, "synthesize.steps": 100})
    stage = started(*SYNTHESIZE, stderr=subprocess.PIPE)
    kept = wait_for(lambda: finished_shards(Path()))
    at_work(stage.pid)[-1].kill()
    _, shown = stage.communicate(timeout=60)
    assert stage.returncode == 0, shown
    assert "Traceback" not in shown
    assert "synthesize: 800/800" in shown  # steps of the lost shard are not counted twice

    assert len([*(A / "bank/bank.zarr/images/c").iterdir()]) == 4
    assert 0 < len(kept) < 4
    assert kept.items() <= finished_shards(Path()).items()
    with_loss = files(A / "bank")
    shutil.rmtree(".partial")
    run_synthesize(workers=1)
    assert files(A / "bank") == with_loss


def test_two_processes_fine_tune_the_student_of_one_to_rounding(finished):
    set_params(finished, {"quantize.learning_rate": 1e-3})
    run("quantize")
    alone = load_file(A / "students/w4a4/model.safetensors")
    run("quantize", out=A / "shared", workers=2)
    shared = load_file(A / "shared/model.safetensors")
    start = load_file(A / "calibrated/w4a4/model.safetensors")
    assert alone.keys() == shared.keys()
    moved = {name: end - start[name] for name, end in alone.items()}
    largest = max(change.abs().max() for change in moved.values())
    for name, change in moved.items():
        assert torch.allclose(shared[name] - start[name], change, atol=1e-3 * largest), name
    assert largest > 0


def test_an_error_in_a_worker_is_the_error_of_the_stage(begun):
    set_params(begun, {"synthesize.learning_rate": 1e30, "synthesize.steps": 30})
    with pytest.raises(NonFiniteLossError, match=r"synthesize, batch .* learning_rate too high"):
        run_synthesize(workers=2)


def test_killing_the_stage_leaves_no_worker_behind(begun):
    set_params(begun, {"synthesize.samples": 64, "synthesize.steps": 5000})
    stage = started(*SYNTHESIZE, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(at_work(stage.pid)) == 2)
    workers = at_work(stage.pid)
    stage.kill()
    stage.wait()
    wait_for(lambda: not any(worker.is_running() for worker in workers))


def at_work(parent: int) -> list[psutil.Process]:
    """Child processes that have done more than start."""
    children = psutil.Process(parent).children()
    return [child for child in children if child.cpu_times().user > 2]
