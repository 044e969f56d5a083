"""Commands of a flow end with it, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from imports import ROOT

from flows.processes import run, stopped_at_exit

# Starts a silent grandchild and waits for it, as DVC does with a stage.
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open("child", "w").write(str(child.pid))
child.wait()
"""
FLOW = f"""
from flows.processes import run, stopped_at_exit
with stopped_at_exit():
    run(["-c", {PARENT!r}])
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def child() -> psutil.Process:
    deadline = time.monotonic() + 60
    while not (Path("child").exists() and Path("child").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return psutil.Process(int(Path("child").read_text()))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_one_that_asked_for_it(number):
    flow = subprocess.Popen([sys.executable, "-c", FLOW], stderr=subprocess.DEVNULL)
    process = child()
    os.kill(flow.pid, number)
    flow.wait(timeout=60)
    assert psutil.wait_procs([process], timeout=20)[1] == []


def test_a_timeout_stops_the_whole_group():
    with stopped_at_exit():
        outcome = run(["-c", PARENT], timeout=1.0)
    assert outcome.timed_out
    assert not psutil.pid_exists(int(Path("child").read_text()))


def test_exit_code_and_lines_come_back_in_order():
    lines: list[str] = []
    code = "import sys; print('a'); print('error: b', file=sys.stderr); sys.exit(75)"
    with stopped_at_exit():
        outcome = run(["-c", code], on_line=lines.append)
    assert outcome == (75, ["a", "error: b"], False)
    assert lines == outcome.lines
