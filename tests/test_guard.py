"""Commands of a flow end with it, however it ends."""

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, started, wait_for

from hast.flows.processes import run, stopped_at_exit

# A silent grandchild of a flow, and one that Ctrl-C does not end; each says when it is ready.
CHILD = """
import os, time
open("named", "w").write(str(os.getpid()))
os.rename("named", "child")
time.sleep(600)
"""
STUBBORN = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)" + CHILD


def parent_of(child: str) -> str:
    """Starts the child and waits for it, as DVC does with a stage."""
    return f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]).wait()"


def flow_with(child: str) -> str:
    return f"""
from hast.flows.processes import run, stopped_at_exit
with stopped_at_exit():
    run(["-c", {parent_of(child)!r}])
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def child() -> psutil.Process:
    wait_for(Path("child").exists)
    return psutil.Process(int(Path("child").read_text()))


@pytest.mark.parametrize(
    ("number", "asleep"),
    [
        (signal.SIGKILL, CHILD),
        (signal.SIGTERM, CHILD),
        (signal.SIGINT, CHILD),
        (signal.SIGTERM, STUBBORN),
    ],
    ids=["kill", "term", "int", "stubborn"],
)
def test_no_process_outlives_the_one_that_asked_for_it(number, asleep):
    flow = started("-c", flow_with(asleep), stderr=subprocess.DEVNULL)
    process = child()
    os.kill(flow.pid, number)
    flow.wait(timeout=60)
    assert psutil.wait_procs([process], timeout=30)[1] == []


def test_a_timeout_stops_the_whole_group():
    with stopped_at_exit():
        outcome = run(["-c", parent_of(CHILD)], timeout=5.0)  # enough for three to start
    assert outcome.timed_out
    assert not psutil.pid_exists(int(Path("child").read_text()))


def test_exit_code_and_lines_come_back_in_order():
    lines: list[str] = []
    code = "import sys; print('a'); print('error: b', file=sys.stderr); sys.exit(75)"
    with stopped_at_exit():
        outcome = run(["-c", code], on_line=lines.append)
    assert outcome == (75, ["a", "error: b"], False)
    assert lines == outcome.lines
