"""Commands that run the pipeline: once, as a flow, on a schedule, over variants and seeds."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console

from hast.config.params import check_params
from hast.engine.environment import complete_environment
from hast.engine.machine import installed_version
from hast.engine.progress import QUIET, RECORD
from hast.errors import INTERRUPTED, MENDABLE, TRY_AGAIN, HastError, InputError, needs
from hast.files.tables import read_json, read_latency, read_timings
from hast.flows.lock import mend_lock
from hast.flows.records import read_record
from hast.report.offline_plots import set_up
from hast.report.tables import latency_table, results_table, timings_table
from hast.stages.entry import PARAMS, Quiet

REPORT = Path("report")
_PACKAGES = "'hast[pipeline]'"
_KEPT = "all finished stages are kept; the same command goes on with the one that was stopped"


def run(
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Passed on to `dvc repro`, such as a stage.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Bring the pipeline up to date: `dvc repro`, results, latency here, time of every stage.

    \b
    hast run
    hast run quantize@w4a4 --quiet
    """
    if quiet:
        os.environ[QUIET] = "1"
    check_params(PARAMS)
    require_dvc()
    check_repository(Path.cwd())
    complete_environment()
    mend_lock()
    start = time.time()
    code = _run_dvc(["repro", *["--quiet"] * quiet, *(arguments or [])])
    if code:
        raise SystemExit(code)
    if (REPORT / "index.html").is_file():  # a single stage may have been asked for
        with suppress(InputError):  # an installation without the extra `report` has no such page
            set_up(Path.cwd())
    if not quiet:
        _print_outcome(start)


def flow() -> None:
    """The pipeline as a Prefect flow in this process, with its defaults.

    A deployment can have other values; see `hast serve`.
    """
    complete_environment()  # Prefect reads it when it is imported
    with needs(_PACKAGES):
        from hast.flows.pipeline import pipeline
    _finish(pipeline)


def sweep() -> None:
    """The paper's ablation over three seeds, as DVC experiments under a Prefect flow."""
    complete_environment()
    with needs(_PACKAGES):
        from hast.flows.sweep import sweep as over_seeds
    _finish(over_seeds)


def _finish(flow: Any) -> None:
    """Run a flow to its end.

    Raises:
        HastError: it failed.
    """
    final = flow(return_state=True)
    if not final.is_completed():
        raise HastError(final.message.removeprefix("error: "))


def require_dvc() -> None:
    """
    Raises:
        InputError: it is not installed.
    """
    if installed_version("dvc") is None:
        raise InputError(f"dvc is not installed; run `pip install {_PACKAGES}`")


def check_repository(project: Path) -> None:
    """DVC keeps its project in a Git repository, or is told that there is none.

    Raises:
        InputError: neither is so, as in what was unpacked from a ZIP.
    """
    told = any("no_scm = true" in path.read_text() for path in project.glob(".dvc/config*"))
    project = project.resolve()
    if not told and not any((folder / ".git").exists() for folder in (project, *project.parents)):
        raise InputError(
            f"{project} is in no Git repository, which DVC wants; run `git init && git add -A &&"
            " git commit -m start`, or `dvc config --local core.no_scm true` to do without"
        )


def _run_dvc(arguments: list[str]) -> int:
    """Exit code of DVC. Ctrl-C reaches it and its stage as well: wait until both have ended."""
    interrupts: list[int] = []
    # A handler, not SIG_IGN, which DVC would inherit.
    before = signal.signal(signal.SIGINT, lambda number, _frame: interrupts.append(number))
    try:
        with TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "hast.flows.dvc_command", *arguments]
            told = {"HAST_PYTHON": sys.executable, RECORD: folder}
            code = subprocess.call(command, env=os.environ | told)
            may_pass = read_record(Path(folder)).may_pass
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupts and code:
        print(f"interrupted: {_KEPT}", file=sys.stderr)
        return INTERRUPTED
    return code and (TRY_AGAIN if may_pass else MENDABLE)


def _print_outcome(start: float) -> None:
    console = Console()
    results = REPORT / "results.json"
    if results.is_file():
        measured = read_json(results)
        console.print(results_table(measured))
        latency = read_latency(measured)
        if latency:
            console.print(latency_table(latency))
    console.print(timings_table(read_timings(), since=start))
    console.print(f"Report: {REPORT / 'index.html'}; as a table: {REPORT / 'results.md'}")
