"""Ctrl-C and silence, through the real pipeline in a process group of its own, as on a terminal."""

import os
import signal
import subprocess

import pytest
from conftest import copy_project, python, set_params, started, wait_for
from stage_runs import A, finished_shards


@pytest.fixture
def project(tmp_path):
    return copy_project(tmp_path / "project")


def run_pipeline(project) -> "subprocess.Popen[str]":
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return started("-u", "-m", "hast", "run", cwd=project, **pipes)


def test_ctrl_c_says_what_is_kept_and_the_next_run_goes_on(project):
    # Each of the four shards takes seconds.
    set_params(project, {"synthesize.samples": 32, "synthesize.steps": 800})
    process = run_pipeline(project)
    wait_for(lambda: finished_shards(project))
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: synthesize: finished shards are kept in .partial/" in errors
    assert "interrupted: all finished stages are kept" in errors
    assert "Traceback" not in errors
    with pytest.raises(ProcessLookupError):  # nothing of it is left running
        os.killpg(process.pid, 0)
    assert (project / "artifacts/generator").is_dir()
    kept = finished_shards(project)

    again = run_pipeline(project)
    wait_for(lambda: len(finished_shards(project)) > len(kept))
    assert kept.items() <= finished_shards(project).items()
    os.killpg(again.pid, signal.SIGINT)
    output, _ = again.communicate(timeout=60)
    assert "Stage 'generator' didn't change, skipping" in output


def test_quiet_stages_say_nothing(begun):
    done = python(
        "-m", "hast.stages.generator", "--teacher", str(A / "teacher"),
        "--out", str(A / "generator"), "--metrics", "m.json", "--curve", "c.tsv", "--quiet",
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("", "")
