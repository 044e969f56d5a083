"""How a stage ends whose processes end badly: real processes under the real launcher."""

import os
import signal
import subprocess

import psutil
import pytest
from conftest import started, wait_for

# As a stage does: starts itself in two processes, of which each does what it was told.
STAGE = """
import os, signal, sys, time
from pathlib import Path
import torch
from hast.engine.distributed import joined_ranks, launch, launched
from hast.errors import InputError, TransientError, clear_errors, clear_interrupts

def work(told):
    rank = int(os.environ["RANK"])
    print(f"rank {rank} has {os.environ['OMP_NUM_THREADS']} thread(s)", flush=True)
    if told == "wrong" and rank == 1:
        raise InputError("steps must be positive, got -1; set it")
    with joined_ranks(torch.device("cpu")) as (ranks, _):
        Path(f"pid-{rank}").write_text(str(os.getpid()))
        ranks.average([torch.ones(2)])
        if rank == 1:
            if told == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if told == "full":
                raise TransientError("the GPU is full; try again")
            if told == "bug":
                raise KeyError("ours")
        while told == "wait":
            time.sleep(0.1)
        ranks.average([torch.ones(2)])

with clear_errors("stage"), clear_interrupts("stage", kept="all"):
    if launched():
        work(sys.argv[1])
    else:
        before = dict(os.environ), signal.getsignal(signal.SIGTERM)
        launch(2, "stage", sys.argv[1:])
        assert (dict(os.environ), signal.getsignal(signal.SIGTERM)) == before
        print("the stage is done")
"""


@pytest.fixture
def stage(tmp_path, monkeypatch):
    (tmp_path / "stage.py").write_text(STAGE)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return lambda told: started("-m", "stage", told, cwd=tmp_path, **pipes)


def ended(stage: "subprocess.Popen[str]", code: int) -> tuple[str, str]:
    """What it printed until it ended with `code`, and what it said of errors."""
    output, errors = stage.communicate(timeout=120)
    assert stage.returncode == code, errors
    return output, errors


@pytest.mark.parametrize(
    ("told", "code", "said"),
    [
        ("wrong", 2, ["steps must be positive, got -1; set it", "2 processes failed; see above"]),
        ("full", 75, ["the GPU is full; try again", "2 processes failed; see above"]),
        ("killed", 75, ["2 processes was stopped by SIGKILL, as where memory is full; try again"]),
    ],
)
def test_what_ends_one_of_the_processes_ends_the_stage_in_the_same_way(stage, told, code, said):
    output, errors = ended(stage(told), code)
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == len(said), errors
    assert all(text in line for text, line in zip(said, lines, strict=True)), errors
    assert "Traceback" not in errors
    assert output.count("has 1 thread(s)") == 2  # what the processes print is seen


def test_an_error_of_ours_stays_one_and_shows_its_traceback(stage):
    _, errors = ended(stage("bug"), 1)
    assert "KeyError: 'ours'" in errors
    assert "RuntimeError: stage in one of 2 processes ended with exit code 1; see abo" in errors
    assert "error: " not in errors.replace("Error: ", "")


def test_processes_that_end_well_let_the_stage_go_on_as_it_was(stage):
    assert "the stage is done" in ended(stage("nothing"), 0)[0]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)]
)
def test_a_stage_that_is_stopped_takes_its_processes_along(stage, tmp_path, number, code):
    running = stage("wait")
    files = [tmp_path / "pid-0", tmp_path / "pid-1"]
    wait_for(lambda: all(path.is_file() and path.read_text() for path in files))
    ranks = [psutil.Process(int(path.read_text())) for path in files]
    os.killpg(running.pid, number)  # as a terminal does with Ctrl-C
    _, errors = ended(running, code)
    assert not any(rank.is_running() for rank in ranks)
    assert ("interrupted: stage: all" in errors) == (number == signal.SIGINT)
