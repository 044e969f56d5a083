"""The command line: `hast` or `python -m hast`."""

import atexit
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from hast.cli import bank as bank_commands
from hast.cli.evaluate import evaluate
from hast.cli.export import export
from hast.cli.init import init
from hast.cli.network import inspect, preset, recipe
from hast.cli.new import new
from hast.cli.pipeline import flow, run, sweep
from hast.cli.quantize import quantize
from hast.cli.results import doctor, plots, report, results
from hast.cli.synthesize import synthesize
from hast.engine.machine import __version__
from hast.errors import clear_errors, clear_interrupts
from hast.flows.serve import serve

_EPILOG = (
    "Exit codes: 0 done; 1 the doctor found a problem, or an error of ours (with its traceback);"
    " 2 something you can mend, said in one line; 75 try again; 130 Ctrl-C."
    " Completion of your shell: hast --install-completion."
)

app = typer.Typer(
    epilog=_EPILOG,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(context_settings={"ignore_unknown_options": True})(run)  # DVC knows them
_COMMANDS: tuple[Callable[..., None], ...] = (
    flow, serve, sweep, results, report, plots, doctor,
    new, init, preset, recipe, inspect, quantize, synthesize, evaluate, export,
)  # fmt: skip
for command in _COMMANDS:
    app.command()(command)
app.add_typer(bank_commands.app, name="bank")


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def _show_version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


@app.callback(no_args_is_help=True)
def options(
    asked: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Zero-shot quantization: make a trained vision network small without its data."""


def main() -> None:
    """Run the command line; what the user can mend ends with one line and exit code 2."""
    atexit.register(gc.freeze)  # the last collection would take half a second, and free nothing
    sys.path.insert(0, str(Path.cwd()))  # `python:` sources are the user's own, as with `python -m`
    with clear_errors("hast"), clear_interrupts("hast", kept="nothing was changed"):
        app()
