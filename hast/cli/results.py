"""Commands about a run: its results, its page, its plots, and what it needs."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hast.cli.doctor import Check, examine
from hast.cli.network import Json, tell
from hast.errors import InputError
from hast.files.tables import read_json, read_latency
from hast.report.offline_plots import set_up
from hast.report.tables import latency_table, results_table, table_of

Folder = Annotated[Path, typer.Option(help="Folder of the report.")]
Open = Annotated[bool, typer.Option("--open", help="Show it in the browser.")]


def results(report: Folder = Path("report"), as_json: Json = False) -> None:
    """Print the results table of the latest run.

    \b
    hast results
    hast results --json | jq .w4a4.drop
    """
    measured = read_json(report / "results.json")
    tell(measured, results_table(measured), as_json=as_json)


def report(
    params: Annotated[Path, typer.Option(help="Parameter file of the run.")] = Path("params.yaml"),
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("report"),
    show: Open = False,
) -> None:
    """Draw the page of the latest run from what its stages wrote, without running any.

    Prints how far each student can be trusted, and the latency that was measured on this machine.

    \b
    hast report --open
    hast report --out /tmp/for-the-meeting
    """
    from hast.report.page import render  # needs the extra `report`
    from hast.report.record import read_run, results_of, verdict

    run = read_run(params)
    values = results_of(run.widths)
    out.mkdir(parents=True, exist_ok=True)
    page = out / "index.html"
    page.write_text(render(run, values), encoding="utf-8")
    for name, row in values.items():
        if name != "fp32":
            print(verdict(name, row))
    latency = read_latency(values)
    if latency:
        Console().print(latency_table(latency))
    print(page)
    if show:
        typer.launch(page.resolve().as_uri())


def plots(show: Open = False) -> None:
    """Make DVC's page of plots, with its scripts inside: it opens without a network.

    From then on `dvc plots show` and `dvc plots diff` do the same in this clone.
    """
    set_up(Path.cwd())
    command = [sys.executable, "-m", "dvc", "plots", "show"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(done.stderr.strip().splitlines()[-1])
    page = done.stdout.strip().splitlines()[-1]
    print(page)
    if show:
        typer.launch(page)


def doctor(as_json: Json = False) -> None:
    """Check versions, device, Git, DVC, Prefect and free space; exit code 1 where a run would stop.

    \b
    hast doctor
    hast doctor --json | jq '.[] | select(.state == "problem")'
    """
    checks = [*examine(Path.cwd())]
    tell([check._asdict() for check in checks], _table(checks), as_json=as_json)
    if any(check.state == "problem" for check in checks):
        raise typer.Exit(1)


def _table(checks: list[Check]) -> Table:
    """What `hast doctor` found."""
    marks = {"ok": "[green]✓[/]", "note": "[yellow]![/]", "problem": "[red]✗[/]"}
    rows = [(marks[c.state], c.name, escape(c.found), escape(c.advice)) for c in checks]
    return table_of("", ("", "", "found", "what to do"), rows, left=4)
