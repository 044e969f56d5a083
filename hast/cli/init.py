"""`hast init`: parameters for the user's own network, checked before anything runs."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hast.cli import network
from hast.config.bit_width import BitWidth
from hast.config.dataset import DatasetConfig
from hast.errors import InputError
from hast.files.classifiers import Classifier
from hast.files.datasets import check_classes, class_folders
from hast.networks.batch_norm import batch_norms
from hast.networks.blocks import find_blocks
from hast.networks.classifier import batch_norm_calls
from hast.networks.sources import is_trained_here
from hast.pipeline.settings import network_settings

_QUESTIONS = {  # with the usual answers for ImageNet, and for small images
    "input_shape": ("Shape of an image, CxHxW", "3x224x224", "3x32x32"),
    "mean": ("Mean of each channel", "0.485,0.456,0.406", "0.5,0.5,0.5"),
    "std": ("Standard deviation of each", "0.229,0.224,0.225", "0.5,0.5,0.5"),
}


def init(
    source: Annotated[
        str | None, typer.Argument(help="Such as torchvision:resnet18; asked for if left out.")
    ] = None,
    weights: network.Weights = None,
    weights_entry: network.WeightsEntry = "auto",
    source_args: network.SourceArgs = "{}",
    input_shape: network.InputShape = None,
    mean: network.Numbers = None,
    std: network.Numbers = None,
    data_root: Annotated[
        str | None, typer.Option(help="Folder with test/CLASS/IMAGE; without it, no accuracy.")
    ] = None,
    bits: Annotated[str, typer.Option(help="Code widths, separated by commas.")] = "w4a4,w3a3",
    recipe: network.Recipe = "hast",
    size: network.Size = "quick",
    minutes: network.Minutes = None,
    out: network.Out = Path("params.yaml"),
) -> None:
    """Write the parameters for your own network, after checking that it loads and fits.

    Without SOURCE it asks. What was in OUT is kept as OUT.old.

    \b
    hast init
    hast init torchvision:resnet18 --weights checkpoint.pth --source-args '{"num_classes": 37}' \\
        --input-shape 3x224x224 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
    hast init python:my_package.models:build --weights model.safetensors \\
        --input-shape 3x32x32 --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5 --data-root data/test_images
    """
    widths = [str(BitWidth.parse(width.strip())) for width in bits.split(",")]
    given = {"input_shape": input_shape, "mean": mean, "std": std}
    if source is None:
        source, weights, data_root, minutes = _ask(weights, given, data_root, minutes)
    teacher = network.teacher_section(source, source_args, weights, weights_entry, **given)
    data = DatasetConfig(name="folder", root=Path(data_root or ""))
    folders = class_folders(data, "test") if data_root else None
    found = network.load_named(teacher)
    if folders:
        check_classes(folders, found.spec.num_classes)
        if not found.spec.class_names:
            teacher["spec"]["class_names"] = folders.classes
    values = network_settings(
        found.network, found.spec, recipe=recipe, size=size, seed=0, minutes=minutes,
        teacher=teacher, data_root=data_root, bit_widths=widths,
    )  # fmt: skip
    network.replace_params(out, values, f"hast init {source}")
    _say(found, teacher, folders)
    print(f"  {network.said_of_sizes(values)}")
    used = out.name == "params.yaml"
    print(f"{out} is written;", "now run `hast run`" if used else "named params.yaml it is used")
    if not batch_norm_calls(found.network, found.spec.input_shape):
        print(
            "nothing can be synthesized, for its forward calls no BatchNorm layer: first set"
            f" bank.source in {out} to a folder of unlabelled pictures, some hundred like those it"
            " was trained on"
        )


def _say(found: Classifier, teacher: dict[str, Any], folder: Any) -> None:
    shape = "x".join(map(str, found.spec.input_shape))
    blocks = find_blocks(found.network, found.spec)
    trained = teacher["weights"] is None and is_trained_here(teacher["source"])
    print(f"{teacher['source']}: {'will be trained' if trained else 'loads'}")
    print(f"  takes {shape} images and answers {found.spec.num_classes} classes")
    print(f"  {len(batch_norms(found.network))} BatchNorm layers, {len(blocks)} blocks to align")
    if folder:
        print(f"  {len(folder):,} test images in {len(folder.classes)} classes")
    else:
        print("  no test images: the student will be compared with the teacher on the bank alone")


def _ask(
    weights: str | None, given: dict[str, str | None], data_root: str | None, minutes: float | None
) -> tuple[str, str | None, str | None, float | None]:
    """Source, weights, data root and minutes; what is missing in `given` is filled in."""
    if not _is_terminal():
        raise InputError("SOURCE is missing, and there is no terminal to ask for it on")
    source = typer.prompt("Where does the network come from (torchvision:NAME, timm:NAME, ...)")
    weights = weights or typer.prompt("Checkpoint file or pretrained tag", default="") or None
    usual = typer.confirm("Does it take images normalized as for ImageNet?", default=True)
    for name, (question, imagenet, small) in _QUESTIONS.items():
        default = imagenet if usual else small
        given[name] = given[name] or typer.prompt(question, default=default)
    data_root = data_root or typer.prompt("Folder with test/CLASS/IMAGE", default="") or None
    if minutes is None:
        question = "Minutes for the bank and one bit width (0: what the recipe takes)"
        minutes = typer.prompt(question, default=0.0, type=float) or None
    return source, weights, data_root, minutes


def _is_terminal() -> bool:
    return sys.stdin.isatty()
