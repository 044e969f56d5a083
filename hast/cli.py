"""The command line: `hast` or `python -m hast`."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hast import __version__
from hast.errors import HastError, InputError
from hast.storage.bank import open_bank
from hast.storage.tables import read_json
from hast.summary import results_table

app = typer.Typer(
    help="Zero-shot quantization: make a trained vision network small without its data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
bank_app = typer.Typer(help="Look at sample banks.", no_args_is_help=True)
app.add_typer(bank_app, name="bank")

BankFolder = Annotated[Path, typer.Argument(help="Folder with bank.zarr and manifest.json.")]


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


@app.command()
def results(
    report: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("report"),
) -> None:
    """Print the results table of the latest run."""
    path = report / "results.json"
    if not path.is_file():
        raise InputError(f"{path}: no results yet; run `dvc repro`")
    Console().print(results_table(read_json(path)))


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
    try:
        app()
    except HastError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
