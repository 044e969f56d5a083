"""Ctrl-C and silence, through the real pipeline in a process group of its own, as on a terminal."""

import os
import signal
import subprocess

import pytest
from conftest import copy_project, edit_params, python, started, wait_for
from stage_runs import A


@pytest.fixture
def project(tmp_path):
    return copy_project(tmp_path / "project")


def run_pipeline(project) -> "subprocess.Popen[str]":
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return started("-u", "-m", "stages.pipeline", cwd=project, **pipes)


def test_ctrl_c_says_what_is_kept_and_the_next_run_goes_on(project):
    # The first shard is done at once and the rest takes for ever.
    edit_params(project, lambda p: p["synthesize"].update(samples=32, steps=2000))
    process = run_pipeline(project)
    shards = project / ".partial"
    wait_for(lambda: [*shards.glob("*/done/0*")])
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: synthesize: finished shards are kept in .partial/" in errors
    assert "interrupted: all finished stages are kept" in errors
    assert "Traceback" not in errors
    with pytest.raises(ProcessLookupError):  # nothing of it is left running
        os.killpg(process.pid, 0)
    assert (project / "artifacts/generator").is_dir()
    (first,) = shards.glob("*/done/0*")
    made = first.stat().st_mtime_ns

    again = run_pipeline(project)
    wait_for(lambda: [*shards.glob("*/done/1*")])
    assert first.stat().st_mtime_ns == made
    os.killpg(again.pid, signal.SIGINT)
    output, _ = again.communicate(timeout=60)
    assert "Stage 'generator' didn't change, skipping" in output


@pytest.mark.parametrize(("option", "quiet"), [(["--quiet"], ""), ([], "1")])
def test_quiet_stages_say_nothing(begun, option, quiet):
    done = python(
        "-m", "stages.generator", "--teacher", str(A / "teacher"), "--out", str(A / "generator"),
        "--metrics", "m.json", "--curve", "c.tsv", *option, HAST_QUIET=quiet,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
