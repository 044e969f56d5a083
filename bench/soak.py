"""Scheduled runs while parts of the service are killed at random: is one ever stuck or lost?

    python -m bench.soak --runs 100 --faults 30 --seed 0

Makes a project of the built-in digits with `hast new`, serves it with `hast serve`, and injects the
faults at random moments, each kind about equally often. After every run a seed in params.yaml
changes, so that there is something to build. At the end nothing may be left running, and what was
made must be, to the byte, what a project makes that nobody disturbed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil
from ruamel.yaml import YAML

_SOURCE = ["builtin:digits_resnet", "--source-args", '{"widths": [8, 16]}', "--bits", "w4a4"]
_TINY = {
    "teacher": {"training": {"epochs": 1, "batch_size": 256}},
    "generator": {"steps": 3, "width": 8, "latent_dim": 4},
    "synthesize": {"samples": 24, "batch_size": 8, "steps": 3},
}
_TARGET = "synthesize"
_INTERVAL = (
    10  # seconds between two scheduled runs; one that comes while another works is cancelled
)
_STUCK = 300.0  # seconds without a run that ends
_PARTS = {  # what is on the command line of the process that is killed
    "server": "prefect server start", "worker": "prefect worker start",
    "flow run": "engine", "DVC": "hast.flows.dvc_command", "stage": "hast.stages.",
}  # fmt: skip


class Project:
    """A project that is served, and what can happen to it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.remote = folder, folder.parent / f"{folder.name}-remote"
        _hast("new", str(folder), *_SOURCE, cwd=folder.parent)
        self.change(_TINY)
        self.remote.mkdir()
        _python("-m", "dvc", "remote", "add", "-q", "-d", "store", str(self.remote), cwd=folder)
        definition = YAML().load(folder / "prefect.yaml")
        (nightly,) = (d for d in definition["deployments"] if d["name"] == "nightly")
        parameters = {"targets": [_TARGET], "retry_delay_seconds": 2}
        nightly.update(schedules=[{"interval": _INTERVAL}], parameters=parameters)
        YAML().dump(definition, folder / "prefect.yaml")

    def change(self, values: dict[str, Any]) -> None:
        """Write parameters as an editor does: all at once."""
        file = self.folder / "params.yaml"
        params = YAML().load(file)
        for section, wanted in values.items():
            params[section].update(wanted)
        YAML().dump(params, side := file.with_suffix(".new"))
        side.replace(file)

    def processes(self, part: str = "") -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                said = " ".join(process.cmdline())
                guards = bool(part) and "hast.flows.guard" in said  # what it guards is the part
                if process.cwd() == str(self.folder) and part in said and not guards:
                    yield process

    def kill(self, part: str) -> bool:
        """Kill -9 one process, of which there must be one within a minute."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for process in self.processes(part):
                with suppress(psutil.Error):
                    process.kill()
                    return True
            time.sleep(0.05)
        return False

    def tear_lock(self) -> bool:
        """What a kill leaves while DVC writes its notes."""
        (self.folder / ".dvc/tmp/rwlock").write_text('{"write": {')
        return True

    def refuse(self) -> bool:
        """The remote is away for ten seconds."""
        away = self.remote.with_suffix(".away")
        self.remote.rename(away)
        self.remote.write_text("not a folder")
        time.sleep(10)
        self.remote.unlink()
        away.rename(self.remote)
        return True

    def fill_disk(self) -> bool:
        """The disk is full for a minute, for the stages as for the server."""
        ballast = self.folder.parent / "ballast"
        try:
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 16))
            time.sleep(60)
        finally:
            ballast.unlink()
        return True

    def made(self) -> dict[str, Any]:
        """Digests of what every stage made, from its lock."""
        stages = YAML(typ="safe").load(self.folder / "dvc.lock")["stages"]
        return {name: {out["path"]: out["md5"] for out in stage["outs"]
                       if not out["path"].startswith("metrics")}
                for name, stage in stages.items()}  # fmt: skip


class Night:
    """The server of a project, and the runs that its schedule started."""

    def __init__(self, project: Project) -> None:
        self.project, port = project, _free_port()
        self.api = f"http://127.0.0.1:{port}/api"
        ports = ["--port", str(port), "--report-port", str(_free_port())]
        scheduler = "PREFECT_SERVER_SERVICES_SCHEDULER"
        environment = {
            f"{scheduler}_LOOP_SECONDS": "5", f"{scheduler}_MAX_RUNS": "5",
            "PREFECT_WORKER_QUERY_SECONDS": "2", "PREFECT_HOME": str(project.folder / ".prefect"),
        }  # fmt: skip
        with (project.folder.parent / "serve.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hast", "serve", *ports], cwd=project.folder,
                env=os.environ | environment, stdout=log, stderr=log,
            )  # fmt: skip

    def ended(self) -> list[dict[str, Any]]:
        """Scheduled runs that came to an end, but for those that came while another worked."""
        return [r for r in self._runs() if r["state_type"] in ("COMPLETED", "FAILED", "CRASHED")]

    def active(self) -> list[dict[str, Any]]:
        return [r for r in self._runs() if r["state_type"] in ("PENDING", "RUNNING", "CANCELLING")]

    def pause(self) -> None:
        nightly = self._call("deployments/name/hast-pipeline/nightly")["id"]
        self._call(f"deployments/{nightly}/pause_deployment", {})

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(120)

    def _runs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while len(page := self._page(len(found))) == 200:
            found += page
        return [*found, *page]

    def _page(self, offset: int) -> list[dict[str, Any]]:
        asked = {"flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED", "CANCELLED"]}}}}
        return list(self._call("flow_runs/filter", asked | {"offset": offset, "limit": 200}))

    def _call(self, path: str, values: dict[str, Any] | None = None) -> Any:
        """Of a server that may just be dead."""
        data = None if values is None else json.dumps(values).encode()
        request = Request(f"{self.api}/{path}", data, {"Content-Type": "application/json"})
        deadline = time.monotonic() + _STUCK
        while True:
            try:
                with urlopen(request, timeout=30) as answer:
                    return json.loads(answer.read() or "null")
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.5)


def soak(folder: Path, *, runs: int, faults: int, seed: int, full_disk: bool) -> dict[str, Any]:
    """Returns what happened; a run that is stuck raises."""
    choose, start = random.Random(seed), time.monotonic()
    project = Project(folder / "project")
    kinds: dict[str, Callable[[], bool]] = {
        name: lambda part=part: project.kill(part) for name, part in _PARTS.items()
    } | {"torn lock": project.tear_lock, "remote away": project.refuse}
    if full_disk:
        kinds["full disk"] = project.fill_disk
    plan = [*kinds] * -(-faults // len(kinds))
    choose.shuffle(plan)
    night, injected = Night(project), Counter[str]()
    seen, since, longest = 0, time.monotonic(), 0.0
    while seen < runs:
        count = len(night.ended())
        if count > seen:
            seen, since = count, time.monotonic()
            project.change({"synthesize": {"seed": seen}})
            if plan and seen * faults >= (sum(injected.values()) + 1) * runs:
                time.sleep(choose.uniform(0, 15))
                kind = plan.pop()
                injected[kind] += kinds[kind]()
                print(f"{time.monotonic() - start:6.0f} s, {seen} runs: {kind}", flush=True)
        longest = max(longest, time.monotonic() - since)
        if longest > _STUCK:
            raise SystemExit(f"stuck: no run ended for {_STUCK:g} s; {night.active()}")
        time.sleep(1)
    night.pause()
    while night.active():
        time.sleep(1)
    states = Counter(run["state_name"] for run in night.ended())
    code, left = night.stop(), [*project.processes()]
    return {
        "seed": seed, "seconds": time.monotonic() - start, "runs": dict(states),
        "faults": dict(injected), "longest_without_an_end": longest, "serve_exit_code": code,
        "left_running": len(left), "equal": _equal(project, folder),
    }  # fmt: skip


def _equal(project: Project, folder: Path) -> bool:
    """Whether an undisturbed project makes the same, with the parameters of the end."""
    _hast("run", _TARGET, "--quiet", cwd=project.folder)
    other = Project(folder / "undisturbed")
    shutil.copy(project.folder / "params.yaml", other.folder)
    _hast("run", _TARGET, "--quiet", cwd=other.folder)
    return project.made() == other.made()


def _hast(*arguments: str, cwd: Path) -> None:
    _python("-m", "hast", *arguments, cwd=cwd)


def _python(*arguments: str, cwd: Path) -> None:
    subprocess.run([sys.executable, *arguments], cwd=cwd, check=True, stdout=subprocess.DEVNULL)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True, help="an empty one")
    parser.add_argument("--full-disk", action="store_true", help="fill the disk of the folder, too")
    given = parser.parse_args()
    found = soak(
        given.folder.resolve(), runs=given.runs, faults=given.faults, seed=given.seed,
        full_disk=given.full_disk,
    )  # fmt: skip
    print(json.dumps(found, indent=2))
