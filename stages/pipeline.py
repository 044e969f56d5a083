"""The main job: check the parameters, let DVC rebuild what changed, print what came out."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hast.errors import clear_errors
from hast.storage.tables import read_json
from hast.storage.timings import read_timings
from hast.summary import results_table, timings_table
from stages.entry import PARAMS
from stages.params import check_params

REPORT = Path("report")


def run(
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Passed on to `dvc repro`, such as a stage.")
    ] = None,
) -> None:
    """Check params.yaml, run `dvc repro`, and print the results and the time of every stage."""
    check_params(PARAMS)
    start = time.time()
    # `python` on the stages' command lines must be the one that runs here.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "dvc", "repro", *(arguments or [])]
    code = subprocess.run(command, env=os.environ | {"PATH": path}, check=False).returncode
    if code:
        raise SystemExit(code)

    console = Console()
    results = REPORT / "results.json"
    if results.is_file():  # a single stage may have been asked for
        console.print(results_table(read_json(results)))
    console.print(timings_table(read_timings(), since=start))
    console.print(f"Report: {REPORT / 'results.md'}; pictures: `dvc plots show`")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(context_settings={"ignore_unknown_options": True})(run)
    with clear_errors("pipeline"):
        app()
