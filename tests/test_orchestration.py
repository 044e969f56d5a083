"""`hast serve` as a user has it: server, worker, schedule, runs that fail, cancelling, Ctrl-C."""

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest
from conftest import started, wait_for
from light_project import light_project
from ruamel.yaml import YAML

pytestmark = [pytest.mark.orchestration, pytest.mark.slow]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Served:
    """A project with its server, and the server's API."""

    def __init__(self, project: Path, port: int) -> None:
        self.project = project
        self.api = f"http://127.0.0.1:{port}/api"

    def call(self, path: str, values: dict[str, Any] | None = None) -> Any:
        data = None if values is None else json.dumps(values).encode()
        headers = {"Content-Type": "application/json"}
        request = Request(f"{self.api}/{path}", data, headers)

        def answered() -> list[Any]:
            try:
                with urlopen(request, timeout=30) as answer:
                    return [json.loads(answer.read() or "null")]
            except HTTPError as error:
                if error.code != 503:  # SQLite is busy
                    raise
                return []

        return until(answered)[0]

    def deployment(self, name: str, flow: str = "hast-pipeline") -> str:
        return str(self.call(f"deployments/name/{flow}/{name}")["id"])

    def runs(self, deployment: str, *states: str) -> list[dict[str, Any]]:
        """Flow runs of a deployment in one of the states, the oldest first."""
        asked = {
            "deployments": {"id": {"any_": [self.deployment(deployment)]}},
            "flow_runs": {"state": {"name": {"any_": list(states)}}},
            "sort": "EXPECTED_START_TIME_ASC",
        }
        return list(self.call("flow_runs/filter", asked))

    def tasks(self, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
        found = self.call("task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
        return {task["name"]: task for task in found}

    def pause(self, deployment: str) -> None:
        """Stop its schedule, and wait for what runs."""
        self.call(f"deployments/{self.deployment(deployment)}/pause_deployment", {})
        until(lambda: not self.runs(deployment, "Pending", "Running"))

    def start(self, **parameters: Any) -> dict[str, Any]:
        path = f"deployments/{self.deployment('on-demand')}/create_flow_run"
        return dict(self.call(path, {"parameters": parameters}))

    def wait(self, run: dict[str, Any], *states: str) -> dict[str, Any]:
        path = f"flow_runs/{run['id']}"
        return until(lambda: (r := self.call(path))["state_name"] in states and r)


until = partial(wait_for, every=0.3)


def at_work(project: Path, part: str = "") -> list[psutil.Process]:
    """Processes that work in the project and have `part` on their command line."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd() == str(project) and process.pid != os.getpid():
                found += [process] * (part in " ".join(process.cmdline()))
    return found


class Server:
    """`hast serve` on free ports, with a schedule that fires every few seconds."""

    def __init__(self, folder: Path) -> None:
        self.project = light_project(folder / "project")
        yaml = YAML()
        definition = yaml.load(self.project / "prefect.yaml")
        nightly = definition["deployments"][0]
        assert nightly["name"] == "nightly"
        parameters = {"targets": ["first"], "retries": 1, "retry_delay_seconds": 1}
        nightly.update(schedules=[{"interval": 15}], parameters=parameters)
        yaml.dump(definition, self.project / "prefect.yaml")
        self.log = folder / "serve.log"
        self.port, self.report_port = free_port(), free_port()
        self.served = Served(self.project, self.port)

    def start(self) -> "subprocess.Popen[str]":
        environment = {
            "PREFECT_HOME": str(self.project.parent / "home"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
            "PREFECT_SERVER_SERVICES_SCHEDULER_MAX_RUNS": "5",
            "PYTHONPATH": str(self.project),
        }
        with self.log.open("w") as output:
            ports = ("--port", str(self.port), "--report-port", str(self.report_port))
            process = started(
                "-m", "hast", "serve", *ports, cwd=self.project, environment=environment,
                stdout=output, stderr=output,
            )  # fmt: skip
        until(lambda: "Ctrl-C stops" in self.log.read_text() or process.poll() is not None)
        assert process.poll() is None, self.log.read_text()
        return process

    def stop(self, process: "subprocess.Popen[str]") -> None:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        until(lambda: not at_work(self.project), 20)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Server:
    return Server(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def served(server) -> Iterator[Served]:
    process = server.start()
    try:
        yield server.served
        server.stop(process)
    finally:
        process.kill()
        process.wait()
        print(server.log.read_text()[-6000:])


def test_scheduled_runs_succeed_and_a_held_lock_is_tried_again_before_one_fails(served):
    first, second = until(lambda: (r := served.runs("nightly", "Completed"))[1:] and r[:2])
    assert served.tasks(first)["first"]["state_name"] == "Completed"
    assert served.tasks(second)["first"]["state_name"] == "Cached"

    served.pause("nightly")
    busy = {"pid": os.getpid(), "cmd": "dvc of this test"}
    out = str(served.project / "out/first.json")
    (served.project / ".dvc/tmp/rwlock").write_text(json.dumps({"write": {out: busy}}))
    served.call(f"deployments/{served.deployment('nightly')}/resume_deployment", {})
    failed = until(lambda: served.runs("nightly", "Failed"))[0]
    served.pause("nightly")
    (served.project / ".dvc/tmp/rwlock").unlink()
    task = served.tasks(failed)["first"]
    assert task["run_count"] == 2
    assert f"'{out}' is busy" in task["state"]["message"]
    assert failed["state"]["message"] == task["state"]["message"]


def test_a_wrong_parameter_fails_at_once_with_its_line(served):
    run = served.wait(served.start(overrides={"quantize.steps": -1}), "Failed", "Completed")
    assert run["state"]["message"].startswith("error: params.yaml: quantize.steps: Input should be")
    assert served.tasks(run) == {}


def test_a_run_that_is_cancelled_or_too_slow_stops_and_leaves_the_workspace_usable(served):
    definition = served.project / "dvc.yaml"
    params = (served.project / "params.yaml").read_text()
    definition.write_text(definition.read_text().replace("} 3", "} 600"))
    run = served.start(targets=["work@a"], overrides={"quantize.steps": 7})

    def sleeping() -> list[psutil.Process]:
        return at_work(served.project, "hast.stages.light")

    (stage,) = until(sleeping)
    assert (served.project / "params.yaml").read_text() != params
    served.call(f"flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
    served.wait(run, "Cancelled")
    until(lambda: not stage.is_running(), 20)
    assert (served.project / "params.yaml").read_text() == params

    run = served.start(targets=["work@a"], stage_timeout_seconds=15)
    run = served.wait(run, "Failed", "Completed")
    assert run["state"]["message"] == "work@a: stopped after 15 s"
    assert served.tasks(run)["work@a"]["state_name"] == "TimedOut"
    assert served.tasks(run)["work@a"]["run_count"] == 1
    assert sleeping() == []

    definition.write_text(definition.read_text().replace("} 600", "} 1"))
    run = served.wait(served.start(targets=["work@a"]), "Completed", "Failed")
    assert run["state_name"] == "Completed"
    assert served.tasks(run)["work@a"]["state"]["message"] == "work@a was built"


def killed(project: Path, part: str) -> int:
    """Kill -9 all processes of the project whose command line names `part`; returns how many."""
    found = at_work(project, part)
    for process in found:
        with suppress(psutil.Error):
            process.kill()
    return len(found)


@pytest.mark.parametrize(
    "part", ["prefect server start", "prefect worker start", "hast.stages.light", "dvc", "engine"]
)
def test_after_any_part_was_killed_the_next_run_completes(served, part):
    definition = served.project / "dvc.yaml"
    definition.write_text(re.sub(r"\} \d+", "} 20", definition.read_text()))
    run = served.start(targets=["work@a"], force=True, retries=1, retry_delay_seconds=1)
    until(lambda: at_work(served.project, "hast.stages.light"))
    assert killed(served.project, part)
    definition.write_text(re.sub(r"\} \d+", "} 1", definition.read_text()))
    until(lambda: answers(served), 120)
    served.wait(run, "Completed", "Failed", "Crashed")
    again = served.wait(served.start(targets=["work@a"]), "Completed", "Failed", "Crashed")
    assert again["state_name"] == "Completed"


def answers(served: Served) -> bool:
    with suppress(OSError):
        return bool(served.call("health"))
    return False


def test_after_all_was_killed_at_once_the_next_night_completes(tmp_path):
    server = Server(tmp_path)
    served, process = server.served, server.start()
    definition = server.project / "dvc.yaml"
    definition.write_text(definition.read_text().replace("light first 0", "light first 60"))
    until(lambda: at_work(server.project, "hast.stages.light"))
    while killed(server.project, ""):
        pass
    process.wait()
    definition.write_text(definition.read_text().replace("light first 60", "light first 0"))
    process = server.start()
    try:
        assert until(lambda: served.runs("nightly", "Completed"))
        server.stop(process)
    finally:
        process.kill()
        process.wait()
        print(server.log.read_text()[-6000:])
