"""The command line: `hast` or `python -m hast`."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from hast import __version__, presets
from hast.bit_width import BitWidth
from hast.config import parse_section, write_yaml
from hast.errors import InputError, clear_errors
from hast.inspection import inspection
from hast.networks.plan import PlanConfig
from hast.presets import PRESETS
from hast.storage.bank import open_bank
from hast.storage.tables import read_json
from hast.summary import layers_table, results_table

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


@app.command()
def inspect(
    source: Annotated[str, typer.Argument(help="Such as torchvision:resnet18 or timm:resnet18.")],
    input_shape: Annotated[
        str | None,
        typer.Option(help="CxHxW, where the source does not know it."),
    ] = None,
    source_args: Annotated[str, typer.Option(help="Arguments of the factory, as JSON.")] = "{}",
    bits: Annotated[str, typer.Option(help="Code widths.")] = "w4a4",
    placement: Annotated[str, typer.Option(help="`inputs` or `relu`.")] = "inputs",
    first_last_bits: Annotated[int | None, typer.Option(help="Of first and last layer.")] = None,
    align: Annotated[list[str] | None, typer.Option(help="Patterns of modules to align.")] = None,
) -> None:
    """Show what is found in a network, before any work and without its weights."""
    rules = {"placement": placement, "first_last_bits": first_last_bits}
    found = inspection(
        source,
        _json(source_args),
        input_shape=None if input_shape is None else _shape(input_shape),
        bits=BitWidth.parse(bits),
        rules=parse_section(rules, PlanConfig, name="inspect"),
        alignment_modules=align or [],
    )
    console = Console()
    console.print(f"{found.batch_norms} BatchNorm layers; blocks to align:")
    for name in found.blocks:
        console.print(f"  {name}", highlight=False)
    console.print(layers_table(found.layers, title=f"Layers of {bits}"))
    console.print(f"fp32: {found.full_bytes:,} bytes, {bits}: {found.packed_bytes:,} bytes")


@app.command()
def preset(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(PRESETS)}.")],
    recipe: Annotated[str, typer.Option(help="`hast` is the paper, or `best`.")] = "hast",
    size: Annotated[str, typer.Option(help="`quick` or `paper`.")] = "quick",
    weights: Annotated[str | None, typer.Option(help="Checkpoint of the teacher.")] = None,
    data_root: Annotated[str | None, typer.Option(help="Folder that holds test/CLASS/.")] = None,
    out: Annotated[Path, typer.Option(help="Params file to write.")] = Path("params.yaml"),
) -> None:
    """Switch the pipeline to another teacher, recipe or size. What was there is kept as OUT.old."""
    values = presets.preset(name, recipe=recipe, size=size, weights=weights, data_root=data_root)
    if out.exists():
        out.replace(out.with_name(f"{out.name}.old"))
    write_yaml(out, values, comment=f"hast preset {name} --recipe {recipe} --size {size}")
    print(f"{out}: {name}, recipe {recipe}, size {size}; now run `dvc repro`")


@bank_app.command()
def info(folder: BankFolder) -> None:
    """Verify a bank and print where it comes from, as JSON."""
    print(open_bank(folder).card.model_dump_json(indent=2))


@bank_app.command()
def verify(folder: BankFolder) -> None:
    """Check structure, hashes, labels and finiteness of a bank."""
    bank = open_bank(folder)
    print(f"{folder}: good, {len(bank.images)} samples for teacher {bank.card.teacher}")


def _shape(text: str) -> tuple[int, int, int]:
    parts = text.split("x")
    if len(parts) != 3 or not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise InputError(f"input shape must be written CxHxW, such as 3x224x224; got {text!r}")
    channels, height, width = map(int, parts)
    return channels, height, width


def _json(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise InputError(f"source arguments must be JSON ({error}), got {text!r}") from None
    if not isinstance(values, dict):
        raise InputError(f"source arguments must be a JSON object, got {text!r}")
    return values


def main() -> None:
    """Run the command line; what the user can mend ends with one line and exit code 2."""
    sys.path.insert(0, str(Path.cwd()))  # `python:` sources are the user's own, as with `python -m`
    with clear_errors("hast"):
        app()
