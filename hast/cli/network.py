"""Commands about a network: look at it, and write the parameters of a run."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from hast.config.bit_width import BitWidth
from hast.config.layers import PlanConfig
from hast.config.params import PRESETS
from hast.config.params import preset as preset_values
from hast.config.recipes import with_recipe
from hast.config.section import parse_section, read_yaml, write_yaml
from hast.config.spec import ModelSpec
from hast.config.targets import TARGETS
from hast.engine.engine import place, select_device
from hast.errors import InputError
from hast.export.dry_run import float_operators
from hast.files.classifiers import Classifier, load_classifier
from hast.files.placing import write_atomically
from hast.networks.batch_norm import freeze
from hast.networks.coverage import warn_of_full_precision
from hast.networks.inspection import Inspection, inspection, untrained
from hast.networks.sources import is_trained_here
from hast.pipeline.settings import network_settings
from hast.report.tables import layers_table, sizes_table

Source = Annotated[str, typer.Argument(help="Such as torchvision:resnet18 or timm:resnet18.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Out = Annotated[Path, typer.Option(help="Params file to write.")]
Recipe = Annotated[str, typer.Option(help="`hast` is the paper, or `best`.")]
Size = Annotated[str, typer.Option(help="`quick` or `paper`.")]
InputShape = Annotated[str | None, typer.Option(help="CxHxW, where the source does not know it.")]
Minutes = Annotated[
    float | None, typer.Option(min=0.01, help="Choose images and steps that take about so long.")
]
SourceArgs = Annotated[str, typer.Option(help="Arguments of the factory, as JSON.")]
Device = Annotated[str, typer.Option(envvar="HAST_DEVICE", help="auto, cpu, cuda[:i] or mps.")]
Weights = Annotated[str | None, typer.Option(help="Checkpoint file or pretrained tag.")]
WeightsEntry = Annotated[
    str, typer.Option(help="Of a checkpoint file; auto takes averaged weights first.")
]
Numbers = Annotated[str | None, typer.Option(help="One number a channel, such as 0.5,0.5,0.5.")]


def inspect(
    source: Source,
    input_shape: InputShape = None,
    source_args: SourceArgs = "{}",
    bits: Annotated[str, typer.Option(help="Code widths.")] = "w4a4",
    placement: Annotated[str, typer.Option(help="`inputs` or `relu`.")] = "inputs",
    first_last_bits: Annotated[str, typer.Option(help="Of first and last layer.")] = "width",
    align: Annotated[list[str] | None, typer.Option(help="Patterns of modules to align.")] = None,
    target: Annotated[
        str, typer.Option(help="A runtime: what will it compute in floating point?")
    ] = "generic",
    as_json: Json = False,
) -> None:
    """Show what is found in a network, before any work and without its weights.

    \b
    hast inspect torchvision:resnet18 --input-shape 3x224x224
    hast inspect timm:mobilenetv2_100 --input-shape 3x96x96 --first-last-bits 8 --json
    """
    given = {"placement": placement, "first_last_bits": first_last_bits, "target": target}
    rules = parse_section(given, PlanConfig, name="inspect")
    width = BitWidth.parse(bits)
    shape = None if input_shape is None else parse_shape(input_shape)
    network, spec = untrained(source, parse_arguments(source_args), shape)
    found = inspection(network, spec, bits=width, rules=rules, alignment_modules=align or [])
    integers = TARGETS[rules.target].integer_ops
    floats = float_operators(network, spec, width, rules) if integers else None
    if as_json:
        print(json.dumps(found.as_plain() | {"float_operators": floats}, indent=2))
    else:
        _print(found, bits)
        if floats is not None:
            print(f"In floating point for {target}:{'' if floats else ' nothing.'}")
            for operator, modules in floats.items():
                print(f"  {operator} in {', '.join(modules)}")
    warn_of_full_precision(found.coverage, width)


def preset(
    name: Annotated[
        str, typer.Argument(help=f"One of {', '.join(PRESETS)}.", autocompletion=lambda: [*PRESETS])
    ],
    recipe: Recipe = "hast",
    size: Size = "quick",
    weights: Annotated[str | None, typer.Option(help="Checkpoint of the teacher.")] = None,
    data_root: Annotated[str | None, typer.Option(help="Folder that holds test/CLASS/.")] = None,
    out: Out = Path("params.yaml"),
) -> None:
    """Switch the pipeline to another teacher, recipe or size. What was there is kept as OUT.old.

    \b
    hast preset digits
    hast preset cifar10_resnet20 --recipe best --data-root data/cifar10
    """
    values = preset_values(name, recipe=recipe, size=size, weights=weights, data_root=data_root)
    replace_params(out, values, f"hast preset {name} --recipe {recipe} --size {size}")
    print(f"{out}: {name}, recipe {recipe}, size {size}; now run `dvc repro`")


def recipe(
    name: Annotated[str, typer.Argument(help="hast is the paper; see docs/results.md.")],
    params: Annotated[Path, typer.Option(help="The file to change.")] = Path("params.yaml"),
) -> None:
    """Write the values of a recipe into the parameters, and leave all else in them as it is.

    \b
    hast recipe best
    """
    read_yaml(params)  # for its errors
    text, changed = with_recipe(params.read_text(), name)
    write_atomically(params, text.encode())
    for key, found, wanted in changed:
        print(f"{key}: {'unset' if found is None else found} -> {wanted}")
    print(f"{params}: recipe {name}" + ("" if changed else ", as it was"))


def tell(values: Any, table: Table, *, as_json: bool) -> None:
    """Print a table, or, for programs, its values as JSON."""
    if as_json:
        print(json.dumps(values, indent=2))
    else:
        Console().print(table)


def teacher_section(
    source: str, source_args: str, weights: str | None, weights_entry: str, **spec: str | None
) -> dict[str, Any]:
    """The section `teacher` of options; `spec` are those that the source may not know."""
    return {
        "source": source,
        "source_args": parse_arguments(source_args),
        "weights": weights,
        "weights_entry": weights_entry,
        "spec": {name: _value(name, text) for name, text in spec.items() if text is not None},
    }


def load_named(teacher: dict[str, Any]) -> Classifier:
    """The frozen network of a section `teacher`.

    Raises:
        InputError: see `load_classifier`; what is missing is named as the option that says it.
    """
    try:
        found = load_classifier(**teacher)
    except InputError as error:
        if "must be given" in str(error):
            raise InputError(f"{error}; say it with --input-shape, --mean and --std") from None
        raise
    freeze(found.network)
    return found


def with_settings(
    source: str, source_args: str, weights: str | None, weights_entry: str, *,
    input_shape: str | None, mean: str | None, std: str | None, device: str, **wishes: Any,
) -> tuple[nn.Module, ModelSpec, dict[str, Any]]:  # fmt: skip
    """The frozen network that options name, on its device, what it expects, and the content of a
    params file for it; `wishes` are those of `network_settings`.

    Raises:
        InputError: it cannot be loaded, or has no weights.
    """
    named = teacher_section(
        source, source_args, weights, weights_entry, input_shape=input_shape, mean=mean, std=std
    )
    if weights is None and is_trained_here(source):
        way_out = "give --weights, or train it: `hast new`, then `hast run`"
        raise InputError(f"{source}: has no weights yet; {way_out}")
    teacher, spec = load_named(named)
    place(teacher, select_device(device), spec.input_shape)
    return teacher, spec, network_settings(teacher, spec, teacher=named, **wishes)


def said_of_sizes(values: dict[str, Any]) -> str:
    """How much parameters let be done, in a few words."""
    pixels, steps = values["synthesize"], values["quantize"]["steps"]
    given = values["bank"]["source"]
    parts = [given or f"{pixels['samples']:,} images of {pixels['steps']} steps"]
    if values["reconstruct"]["steps"]:
        parts.append(f"{values['reconstruct']['steps']} steps a block")
    return ", ".join([*parts, f"{steps:,} steps of fine-tuning" if steps else "no fine-tuning"])


def _value(name: str, text: str) -> list[float]:
    if name == "input_shape":
        return [*parse_shape(text)]
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{name} must be numbers separated by commas, got {text!r}") from None


def replace_params(out: Path, values: dict[str, Any], command: str) -> None:
    """Write a params file; what was there is kept beside it."""
    if out.exists():
        out.replace(out.with_name(f"{out.name}.old"))
    write_yaml(out, values, comment=command)


def parse_shape(text: str) -> tuple[int, int, int]:
    """Read CxHxW.

    Raises:
        InputError: another form.
    """
    parts = text.split("x")
    if len(parts) != 3 or not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise InputError(f"input shape must be written CxHxW, such as 3x224x224; got {text!r}")
    channels, height, width = map(int, parts)
    return channels, height, width


def _print(found: Inspection, bits: str) -> None:
    console = Console()
    console.print(f"{found.batch_norms} BatchNorm layers; blocks to align:")
    for name in found.blocks:
        console.print(f"  {name}", highlight=False)
    console.print(layers_table(found.layers, title=f"Layers of {bits}"))
    console.print(f"{found.coverage}.", highlight=False)
    console.print(sizes_table(found.sizes))


def parse_arguments(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise InputError(f"source arguments must be JSON ({error}), got {text!r}") from None
    if not isinstance(values, dict):
        raise InputError(f"source arguments must be a JSON object, got {text!r}")
    return values
