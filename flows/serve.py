"""A Prefect server, a worker and the deployments of prefect.yaml on this machine; `hast serve`.

Ctrl-C stops them all. Server and runs are kept in .prefect/. A part that is killed is started
again, and runs whose processes are gone are ended, so that the next ones find their places free.
"""

import os
import platform
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from http.client import HTTPException
from pathlib import Path
from signal import SIGINT, SIGTERM, signal
from typing import Annotated
from urllib.request import urlopen

import typer
from ruamel.yaml import YAML

from hast.engine.environment import complete_environment
from hast.errors import HastError, InputError, needs
from hast.flows.processes import guarded

_HOST = "127.0.0.1"
_PATIENCE = 120.0  # seconds for the server to answer; its first start makes a database
_DEFINITION = Path("prefect.yaml")
_LOOK_EVERY = 10.0  # seconds between two looks for lost runs
_DEATHS, _WITHIN = 5, 300.0  # of one part, in seconds: more is no accident


def serve(
    port: Annotated[int, typer.Option(help="Of the server and its pages.")] = 4200,
    report_port: Annotated[int, typer.Option(help="Of the pages in report/.")] = 4201,
    limit: Annotated[int, typer.Option(help="Flow runs at a time.")] = 1,
) -> None:
    """A Prefect server, a worker and the nightly schedule on this machine, until Ctrl-C."""
    for number in (SIGINT, SIGTERM):
        signal(number, lambda *_: sys.exit(0))
    api = f"http://{_HOST}:{port}/api"
    if not _DEFINITION.is_file():
        raise InputError(f"{_DEFINITION}: no such file; run this in a project, as of `hast new`")
    for option, wanted in (("--port", port), ("--report-port", report_port)):
        with socket.socket() as asked:
            if asked.connect_ex((_HOST, wanted)) == 0:
                raise InputError(f"something serves on port {wanted} already; set {option}")
    complete_environment()
    os.environ.update(_environment(api, report_port))
    with needs("'hast[pipeline]'"):
        from hast.flows.lost import end_lost_runs, free_places
    pool = str(YAML(typ="safe").load(_DEFINITION)["definitions"]["pool"]["name"])
    name = f"{platform.node()}-{os.getpid()}"
    with ExitStack() as stack:
        parts = _Parts(
            stack,
            {
                "server": ("prefect", "server", "start", "--host", _HOST, "--port", str(port)),
                "worker": (
                    "prefect", "worker", "start", "--pool", pool, "--name", name,
                    "--limit", str(limit),
                ),
                "report pages": (
                    "http.server", str(report_port), "--bind", _HOST, "--directory", "report",
                ),
            },
        )  # fmt: skip
        _wait_for(f"{api}/health", parts.start("server"))
        _call("work-pool", "create", "--type", "process", "--overwrite", pool)
        _call("--no-prompt", "deploy", "--all")
        free_places()
        parts.start("worker")
        parts.start("report pages")
        print(
            f"\nPrefect: http://{_HOST}:{port}   (pages: Deployments, Runs, Artifacts)\n"
            f"Start a run: PREFECT_API_URL={api} prefect deployment run hast-pipeline/on-demand\n"
            "Ctrl-C stops server, worker and schedule.\n",
            flush=True,
        )
        looked = 0.0
        while True:
            parts.revive()
            if time.monotonic() - looked > _LOOK_EVERY and _answers(f"{api}/health"):
                for lost in end_lost_runs():
                    print(f"{lost}: its process is gone; it is crashed", file=sys.stderr)
                looked = time.monotonic()
            time.sleep(0.5)


class _Parts:
    """Processes of this one; all end with the stack."""

    def __init__(self, stack: ExitStack, commands: dict[str, tuple[str, ...]]) -> None:
        self._stack, self._commands = stack, commands
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._deaths: dict[str, list[float]] = {name: [] for name in commands}

    def start(self, name: str) -> "subprocess.Popen[str]":
        process = self._stack.enter_context(guarded(["-m", *self._commands[name]]))
        self._running[name] = process
        return process

    def revive(self) -> None:
        """Start what has ended.

        Raises:
            HastError: it does so again and again.
        """
        for name, process in self._running.items():
            if process.poll() is None:
                continue
            now = time.monotonic()
            self._deaths[name] = [t for t in self._deaths[name] if now - t < _WITHIN] + [now]
            if len(self._deaths[name]) > _DEATHS:
                raise HastError(f"the {name} ends again and again; see above")
            print(f"the {name} has ended by itself; it is started again", file=sys.stderr)
            self.start(name)


def _environment(api: str, report_port: int) -> dict[str, str]:
    """What server, worker and the runs that it starts go by."""
    here = Path.cwd()
    path = os.pathsep.join(filter(None, [str(here), os.environ.get("PYTHONPATH", "")]))
    return {
        "PREFECT_API_URL": api,
        "PREFECT_HOME": os.environ.get("PREFECT_HOME", str(here / ".prefect")),
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        # In memory, which is the usual, places stay taken when the server is killed.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
        "HAST_WORKSPACE": os.environ.get("HAST_WORKSPACE", str(here)),
        "HAST_REPORT_URL": os.environ.get("HAST_REPORT_URL", f"http://{_HOST}:{report_port}"),
        "PYTHONPATH": path,
    }


def _call(*arguments: str) -> None:
    command = [sys.executable, "-m", "prefect", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HastError(f"prefect {' '.join(arguments)}: {done.stdout}{done.stderr}".strip())


def _wait_for(url: str, server: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + _PATIENCE
    while not _answers(url):
        if server.poll() is not None or time.monotonic() > deadline:
            raise HastError(f"the Prefect server does not answer at {url}")
        time.sleep(0.3)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2):
            return True
    except (OSError, HTTPException):
        return False
