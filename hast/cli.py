"""The command line: `hast` or `python -m hast`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from hast import __version__
from hast.errors import clear_errors, clear_interrupts
from hast.init_cli import init
from hast.network_cli import inspect, preset
from hast.run_cli import doctor, plots, report, results
from hast.storage.bank import open_bank

_EPILOG = (
    "Exit codes: 0 done; 1 the doctor found a problem, or an error of ours (with its traceback);"
    " 2 something you can mend, said in one line; 75 try again; 130 Ctrl-C."
    " Completion of your shell: hast --install-completion."
)

app = typer.Typer(
    help="Zero-shot quantization: make a trained vision network small without its data.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (init, inspect, preset, doctor, results, report, plots):
    app.command()(command)
bank_app = typer.Typer(help="Look at sample banks.", no_args_is_help=True)
app.add_typer(bank_app, name="bank")

BankFolder = Annotated[Path, typer.Argument(help="Folder with bank.zarr and manifest.json.")]


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


@bank_app.command()
def info(folder: BankFolder) -> None:
    """Verify a bank and print where it comes from, as JSON."""
    print(open_bank(folder).card.model_dump_json(indent=2))


@bank_app.command()
def verify(folder: BankFolder) -> None:
    """Check structure, hashes, labels and finiteness of a bank."""
    bank = open_bank(folder)
    print(f"{folder}: good, {len(bank.images)} samples for teacher {bank.card.teacher}")


def main() -> None:
    """Run the command line; what the user can mend ends with one line and exit code 2."""
    sys.path.insert(0, str(Path.cwd()))  # `python:` sources are the user's own, as with `python -m`
    with clear_errors("hast"), clear_interrupts("hast", kept="nothing was changed"):
        app()
