"""A flow run's own parameters in the clone where it works: what a user finds in params.yaml after
runs that ended and runs that were killed."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import python, started

PARAMS = "seed: 0 # of all\nquantize:\n  steps: 800\n  seed: 1e-3\n"

# Runs that are killed while they have the workspace, one for each folder on standard input.
KILLED = """
import os, signal, sys
from hast.flows.workspace import workspace

for folder in sys.stdin:
    child = os.fork()
    if not child:
        os.chdir(folder.strip())
        with workspace({"quantize.steps": 7}):
            os.kill(os.getpid(), signal.SIGKILL)
    print("killed", os.waitpid(child, 0)[1] == signal.SIGKILL, flush=True)
"""

# Kills itself before each of its steps in turn, and each time the next run looks what it finds.
KILLED_EVERYWHERE = """
import itertools, os, signal, sys
from pathlib import Path
from hast.flows.workspace import workspace

before = Path("params.yaml").read_bytes()

def killed_before(step):
    steps = itertools.count()
    def hook(event, arguments):
        touches = event in ("open", "os.rename", "os.remove") and "params" in str(arguments[0])
        if touches and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

for step in itertools.count():
    child = os.fork()
    if not child:
        killed_before(step)
        with workspace({"quantize.steps": 7}):
            assert b"steps: 7" in Path("params.yaml").read_bytes()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    with workspace({}):
        assert Path("params.yaml").read_bytes() == before, step
    assert not {"params.before-run.yaml", "params.of-run.yaml"} & {*os.listdir(".dvc/tmp")}, step
    if os.WIFEXITED(status):
        print(step, os.WEXITSTATUS(status))
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
"""

# Flows, one for each line of standard input: it runs in `folder`, and while it runs somebody writes
# `edited` to params.yaml there.
FLOWS = """
import json, os, sys
from pathlib import Path
from prefect import flow
from hast.flows.workspace import workspace

@flow
def run(folder, overrides, edited):
    os.chdir(folder)
    with workspace(overrides):
        seen = Path("params.yaml").read_text()
        if edited is not None:
            Path("params.yaml").write_text(edited)
    return seen

for line in sys.stdin:
    print("SEEN", json.dumps(run(**json.loads(line))), flush=True)
"""


def start(code: str, folder: Path, **options: Any) -> "subprocess.Popen[str]":
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return started("-c", code, cwd=folder, **pipes, **options)


@pytest.fixture(scope="module")
def run_flow(prefect, tmp_path_factory):
    """Runs a flow in a clone; returns what it found in params.yaml, and the warnings it logged."""
    folder = tmp_path_factory.mktemp("flows")
    with (folder / "log").open("w") as log, (folder / "log").open() as said:
        process = start(FLOWS, folder, environment=prefect, stderr=log)

        def run(clone: Path, overrides=None, edited=None) -> tuple[str, list[str]]:
            asked = {"folder": str(clone), "overrides": overrides or {}, "edited": edited}
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            lines = iter(process.stdout.readline, "")
            seen = next(line for line in lines if line.startswith("SEEN "))
            warnings = [line.rstrip() for line in said if "WARNING" in line]
            return json.loads(seen.removeprefix("SEEN ")), warnings

        yield run
        process.communicate(timeout=60)  # ends its input, and with it the process


@pytest.fixture
def clone(tmp_path):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "params.yaml").write_text(PARAMS)
    return tmp_path


def params_of(clone: Path) -> dict[str, str]:
    """The parameter files that a user sees."""
    return {path.name: path.read_text() for path in clone.glob("*.yaml")}


@pytest.fixture(scope="module")
def kill_a_run(prefect, tmp_path_factory):
    """Leaves a clone as a run does that is killed."""
    process = start(KILLED, tmp_path_factory.mktemp("killed"), environment=prefect)

    def kill(clone: Path) -> None:
        process.stdin.write(f"{clone}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "killed True\n"
        assert "steps: 7" in (clone / "params.yaml").read_text()

    yield kill
    process.communicate(timeout=60)


def test_wherever_a_run_is_killed_the_next_one_finds_the_file_as_it_was(clone):
    steps, code = map(int, python("-c", KILLED_EVERYWHERE, cwd=clone).stdout.split())
    assert (steps >= 8, code) == (True, 0)
    assert params_of(clone) == {"params.yaml": PARAMS}


def test_edits_after_a_kill_stay_and_what_was_before_is_kept_beside(clone, run_flow, kill_a_run):
    kill_a_run(clone)
    edited = (clone / "params.yaml").read_text().replace("seed: 0", "seed: 3")
    (clone / "params.yaml").write_text(edited)
    seen, (said,) = run_flow(clone)
    assert seen == edited
    assert params_of(clone) == {"params.yaml": edited, "params.before-run.yaml": PARAMS}
    for text in ("params.yaml was edited", "(of quantize.steps)", "params.before-run.yaml is how"):
        assert text in said
    assert run_flow(clone) == (edited, [])  # it is said once

    # The next one that is kept has another name.
    kill_a_run(clone)
    (clone / "params.yaml").write_text("seed: 4\n")
    _, (said,) = run_flow(clone)
    assert "params.before-run-2.yaml is how" in said
    assert params_of(clone) == {
        "params.yaml": "seed: 4\n",
        "params.before-run.yaml": PARAMS,
        "params.before-run-2.yaml": edited,
    }


@pytest.mark.parametrize(
    "meanwhile",
    [lambda path: None, Path.unlink, lambda path: path.write_text(PARAMS)],
    ids=["untouched", "removed", "put back by the user"],
)
def test_a_file_that_nobody_edited_is_put_back_in_silence(clone, run_flow, kill_a_run, meanwhile):
    kill_a_run(clone)
    meanwhile(clone / "params.yaml")
    assert run_flow(clone) == (PARAMS, [])
    assert params_of(clone) == {"params.yaml": PARAMS}


def test_what_is_edited_while_a_run_goes_on_stays_when_it_ends(clone, run_flow):
    seen, (said,) = run_flow(clone, {"quantize.steps": 9}, edited="seed: 5\n")
    assert "steps: 9" in seen
    assert "(of quantize.steps)" in said
    assert params_of(clone) == {"params.yaml": "seed: 5\n", "params.before-run.yaml": PARAMS}
