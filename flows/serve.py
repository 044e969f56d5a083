"""A Prefect server, a worker and the deployments of prefect.yaml on this machine; `hast serve`.

Ctrl-C stops them all. Server and runs are kept in .prefect/.
"""

import os
import platform
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from signal import SIGINT, SIGTERM, signal
from typing import Annotated
from urllib.request import urlopen

import typer
from ruamel.yaml import YAML

from hast.engine.environment import complete_environment
from hast.errors import HastError, InputError
from hast.flows.processes import guarded

_HOST = "127.0.0.1"
_PATIENCE = 120.0  # seconds for the server to answer; its first start makes a database
_DEFINITION = Path("prefect.yaml")


def serve(
    port: Annotated[int, typer.Option(help="Of the server and its pages.")] = 4200,
    report_port: Annotated[int, typer.Option(help="Of the pages in report/.")] = 4201,
    limit: Annotated[int, typer.Option(help="Flow runs at a time.")] = 1,
) -> None:
    """A Prefect server, a worker and the nightly schedule on this machine, until Ctrl-C."""
    for number in (SIGINT, SIGTERM):
        signal(number, lambda *_: sys.exit(0))
    api = f"http://{_HOST}:{port}/api"
    if _answers(f"{api}/health"):
        raise InputError(f"something serves on port {port} already; set --port")
    complete_environment()
    os.environ.update(_environment(api, report_port))
    with ExitStack() as stack:

        def start(*arguments: str) -> "subprocess.Popen[str]":
            return stack.enter_context(guarded(["-m", *arguments]))

        processes = [start("prefect", "server", "start", "--host", _HOST, "--port", str(port))]
        _wait_for(f"{api}/health", processes[0])
        pool = str(YAML(typ="safe").load(_DEFINITION)["definitions"]["pool"]["name"])
        _call("work-pool", "create", "--type", "process", "--overwrite", pool)
        _call("--no-prompt", "deploy", "--all")
        name = f"{platform.node()}-{os.getpid()}"
        worker = ("prefect", "worker", "start", "--pool", pool, "--name", name)
        processes.append(start(*worker, "--limit", str(limit)))
        pages = ("http.server", str(report_port), "--bind", _HOST, "--directory", "report")
        processes.append(start(*pages))
        print(
            f"\nPrefect: http://{_HOST}:{port}   (pages: Deployments, Runs, Artifacts)\n"
            f"Start a run: PREFECT_API_URL={api} prefect deployment run hast-pipeline/on-demand\n"
            "Ctrl-C stops server, worker and schedule.\n",
            flush=True,
        )
        while all(process.poll() is None for process in processes):
            time.sleep(0.5)
        raise HastError("one of server, worker and report pages ended by itself; see above")


def _environment(api: str, report_port: int) -> dict[str, str]:
    """What server, worker and the runs that it starts go by."""
    here = Path.cwd()
    path = os.pathsep.join(filter(None, [str(here), os.environ.get("PYTHONPATH", "")]))
    return {
        "PREFECT_API_URL": api,
        "PREFECT_HOME": os.environ.get("PREFECT_HOME", str(here / ".prefect")),
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
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
    except OSError:
        return False
