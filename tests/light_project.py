"""A project whose stages only sleep, so that tests of flows wait for flows alone."""

import json
import os
from pathlib import Path
from typing import Any

from conftest import child_environment, commit_all, copy_project, python

# Notes when it ran and which GPUs it saw. Where a file `fail-NAME` holds an exit code, it fails
# with it; where a file `once-NAME` does, it fails once. Where there is a file `meet`, `a` and `b`
# wait for each other for a minute: then how fast they are started does not matter.
_STAGE = '''
import json, os, sys, time
from pathlib import Path


def run(*, device: str = "auto") -> None:
    """Only its signature is read."""


if __name__ == "__main__":
    name, seconds = sys.argv[1], float(sys.argv[2])
    start = time.time()
    if folder := os.environ.get("HAST_RECORD"):
        Path(folder, "progress").write_text(json.dumps([name, 1, 2, "1.0/s, 1 s left"]) + "\\n")
    print(f"{name} is half done", flush=True)
    for kind in ("fail", "once"):
        told = Path(f"{kind}-{name}")
        if told.exists():
            code = int(told.read_text())
            if kind == "once":
                told.unlink()
            print(f"error: {name}: told to fail", file=sys.stderr)
            sys.exit(code)
    Path(f"started-{name}").touch()
    while Path("meet").exists() and name in ("a", "b") and time.time() < start + 60:
        if all(Path(f"started-{other}").exists() for other in ("a", "b")):
            break
        time.sleep(0.1)
    time.sleep(seconds)
    out = Path(f"out/{name}.json")
    out.parent.mkdir(exist_ok=True)
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    out.write_text(json.dumps({"start": start, "end": time.time(), "gpus": gpus}))
'''

_DEFINITION = """
stages:
  first:
    cmd: sh stage.sh light first 0
    deps: [stages/light.py]
    outs: [out/first.json]
  work:
    matrix:
      bits: [a, b]
    cmd: sh stage.sh light ${item.bits} 3
    deps: [out/first.json]
    outs: ["out/${item.bits}.json"]
  last:
    cmd: sh stage.sh light last 0
    deps: [out/a.json, out/b.json]
    outs: [out/last.json]
"""


def light_project(target: Path) -> Path:
    """A copy of the project with other stages: first, then work@a and work@b, then last."""
    project = copy_project(target)
    (project / "stages/light.py").write_text(_STAGE)
    (project / "dvc.yaml").write_text(_DEFINITION)
    commit_all(project, "light stages")
    return project


# Runs a flow once for each set of parameters, in a folder of its own and after a shell command.
_PROBE = """
import json, os, subprocess, sys
from importlib import import_module
from prefect.client.orchestration import get_client

flow = getattr(import_module(f"hast.flows.{sys.argv[1]}"), sys.argv[1])
for folder, before, parameters in json.loads(sys.argv[2]):
    os.chdir(folder)
    subprocess.run(before, shell=True, check=True)
    state = flow(return_state=True, **parameters)
    run = state.state_details.flow_run_id
    with get_client(sync_client=True) as client:
        tasks = {
            task.name: [task.state_name, task.state.message, task.run_count, task.tags]
            for task in client.read_task_runs()
            if task.flow_run_id == run
        }
        artifacts = {a.key: a.data for a in client.read_artifacts() if a.flow_run_id == run}
    shown = [state.name, state.message, state.result(False), tasks, artifacts]
    print("STATE", json.dumps(shown, default=str))
"""


def run_flows(
    prefect: dict[str, str],
    *runs: tuple[Path, str, dict[str, Any]],
    flow: str = "pipeline",
    path: str = "",
) -> list[list[Any]]:
    """Of every run of a flow: name, message and result of its state, its tasks, its artifacts.

    In a process of its own: Prefect's settings are global to a process.
    """
    environment = prefect | {
        "HAST_TASKS_PER_DEVICE": "1",
        "PATH": os.pathsep.join(filter(None, [path, child_environment()["PATH"]])),
    }
    given = json.dumps([(str(folder), *others) for folder, *others in runs])
    done = python("-c", _PROBE, flow, given, cwd=runs[0][0], code=None, **environment)
    states = [line for line in done.stdout.splitlines() if line.startswith("STATE ")]
    assert len(states) == len(runs), done.stdout[-3000:] + done.stderr[-3000:]
    return [json.loads(state.removeprefix("STATE ")) for state in states]


def two_gpus(folder: Path) -> str:
    """A folder for PATH in which `nvidia-smi` lists two GPUs."""
    folder.mkdir()
    listing = folder / "nvidia-smi"
    listing.write_text("#!/bin/sh\necho GPU-one\necho GPU-two\n")
    listing.chmod(0o755)
    return str(folder)
