"""`hast synthesize`: from a checkpoint to a bank in one command, without a project."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from hast.api.zero_shot import make_samples
from hast.bank.place import check_free
from hast.bank.tools import save_bank
from hast.cli import network


def synthesize(
    source: network.Source,
    out: Annotated[Path, typer.Option(help="Folder of the bank.")] = Path("bank"),
    weights: network.Weights = None,
    weights_entry: network.WeightsEntry = "auto",
    source_args: network.SourceArgs = "{}",
    input_shape: network.InputShape = None,
    mean: network.Numbers = None,
    std: network.Numbers = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="How many; else what recipe, size or minutes say.")
    ] = None,
    recipe: network.Recipe = "best",
    size: network.Size = "quick",
    minutes: network.Minutes = None,
    seed: int = 0,
    device: network.Device = "auto",
    overwrite: Annotated[bool, typer.Option(help="Replace what is at OUT.")] = False,
) -> None:
    """Make a bank of hard samples of a pretrained network, without its data.

    It serves `hast quantize --bank`, `bank.source` of a project, and other toolkits.

    \b
    hast synthesize torchvision:resnet18 --weights resnet18.pth --input-shape 3x224x224 \\
        --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --out bank
    hast bank export bank calibration --as npz
    """
    check_free(out, overwrite=overwrite)
    teacher, spec, values = network.with_settings(
        source, source_args, weights, weights_entry, input_shape=input_shape, mean=mean, std=std,
        recipe=recipe, size=size, seed=seed, minutes=minutes, device=device,
    )  # fmt: skip
    if samples is not None:
        wanted = values["synthesize"]
        wanted |= {"samples": samples, "batch_size": min(samples, wanted["batch_size"])}
    pixels = values["synthesize"]
    print(f"{source}: {pixels['samples']:,} images of {pixels['steps']} steps", file=sys.stderr)
    _, bank = make_samples(teacher, spec, values)
    save_bank(bank, out, overwrite=overwrite)
    print(f"{out}: {len(bank.labels):,} samples; `hast bank info {out}` describes it")
