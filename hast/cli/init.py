"""`hast init`: parameters for the user's own network, checked before anything runs."""

import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from hast.cli.network import (
    InputShape,
    Out,
    Recipe,
    Size,
    SourceArgs,
    parse_arguments,
    parse_shape,
    replace_params,
)
from hast.config import presets
from hast.config.bit_width import BitWidth
from hast.config.dataset import DatasetConfig
from hast.errors import InputError
from hast.files.classifiers import Classifier, load_classifier
from hast.files.datasets import ClassFolders, check_classes, class_folders
from hast.networks.batch_norm import batch_norms, freeze
from hast.networks.blocks import find_blocks
from hast.networks.plan import forward_macs
from hast.networks.sources import is_trained_here

_IMAGENET_MEAN, _IMAGENET_STD = "0.485,0.456,0.406", "0.229,0.224,0.225"
Numbers = Annotated[str | None, typer.Option(help="One number a channel, such as 0.5,0.5,0.5.")]


class _Answers(NamedTuple):
    source: str
    weights: str | None
    weights_entry: str
    spec: dict[str, Any]
    data_root: str | None


def init(
    source: Annotated[
        str | None, typer.Argument(help="Such as torchvision:resnet18; asked for if left out.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Checkpoint file or pretrained tag.")] = None,
    weights_entry: Annotated[
        str, typer.Option(help="Of a checkpoint file; auto takes averaged weights first.")
    ] = "auto",
    source_args: SourceArgs = "{}",
    input_shape: InputShape = None,
    mean: Numbers = None,
    std: Numbers = None,
    data_root: Annotated[
        str | None, typer.Option(help="Folder with test/CLASS/IMAGE; without it, no accuracy.")
    ] = None,
    bits: Annotated[str, typer.Option(help="Code widths, separated by commas.")] = "w4a4,w3a3",
    recipe: Recipe = "hast",
    size: Size = "quick",
    out: Out = Path("params.yaml"),
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
    arguments = parse_arguments(source_args)
    widths = [str(BitWidth.parse(width.strip())) for width in bits.split(",")]
    spec: dict[str, Any] = {} if input_shape is None else {"input_shape": parse_shape(input_shape)}
    spec |= {} if mean is None else {"mean": _numbers("mean", mean)}
    spec |= {} if std is None else {"std": _numbers("std", std)}
    answers = (
        _ask(weights, weights_entry, spec, data_root)
        if source is None
        else _Answers(source, weights, weights_entry, spec, data_root)
    )
    data = DatasetConfig(name="folder", root=Path(answers.data_root)) if answers.data_root else None
    folders = class_folders(data, "test") if data else None
    found = _load(answers, arguments)
    if data and folders:
        check_classes(folders, data, "test", found.spec.num_classes)
        if not found.spec.class_names:
            answers.spec["class_names"] = folders.names
    values = presets.own_network(
        {
            "source": answers.source,
            "source_args": arguments,
            "weights": answers.weights,
            "weights_entry": answers.weights_entry,
            "spec": {key: [*value] for key, value in answers.spec.items()},
        },
        input_shape=found.spec.input_shape,
        macs=forward_macs(found.network, found.spec),
        data_root=answers.data_root,
        bit_widths=widths,
        recipe=recipe,
        size=size,
    )
    replace_params(out, values, f"hast init {answers.source}")
    _say(found, answers, folders, out)


def _load(answers: _Answers, arguments: dict[str, Any]) -> Classifier:
    try:
        found = load_classifier(
            answers.source,
            weights=answers.weights,
            weights_entry=answers.weights_entry,
            source_args=arguments,
            spec=answers.spec,
        )
    except InputError as error:
        if "must be given" in str(error):
            raise InputError(f"{error}; say it with --input-shape, --mean and --std") from None
        raise
    freeze(found.network)
    return found


def _say(found: Classifier, answers: _Answers, folders: ClassFolders | None, out: Path) -> None:
    shape = "x".join(map(str, found.spec.input_shape))
    blocks = find_blocks(found.network, found.spec)
    trained = answers.weights is None and is_trained_here(answers.source)
    print(f"{answers.source}: {'will be trained' if trained else 'loads'}")
    print(f"  takes {shape} images and answers {found.spec.num_classes} classes")
    print(f"  {len(batch_norms(found.network))} BatchNorm layers, {len(blocks)} blocks to align")
    if folders:
        print(f"  {folders.images:,} test images in {len(folders.names)} classes")
    else:
        print("  no test images: the student will be compared with the teacher on the bank alone")
    used = out == Path("params.yaml")
    print(f"{out} is written;", "now run `make run`" if used else "named params.yaml it is used")


def _ask(
    weights: str | None, weights_entry: str, spec: dict[str, Any], data_root: str | None
) -> _Answers:
    if not _is_terminal():
        raise InputError("SOURCE is missing, and there is no terminal to ask for it on")
    source = typer.prompt("Where does the network come from (torchvision:NAME, timm:NAME, ...)")
    weights = weights or typer.prompt("Checkpoint file or pretrained tag", default="") or None
    spec = dict(spec)
    if typer.confirm("Does it take images normalized as for ImageNet?", default=True):
        shape, mean, std = "3x224x224", _IMAGENET_MEAN, _IMAGENET_STD
    else:
        shape, mean, std = "3x32x32", "0.5,0.5,0.5", "0.5,0.5,0.5"
    if "input_shape" not in spec:
        spec["input_shape"] = parse_shape(typer.prompt("Shape of an image, CxHxW", default=shape))
    if "mean" not in spec:
        spec["mean"] = _numbers("mean", typer.prompt("Mean of each channel", default=mean))
    if "std" not in spec:
        spec["std"] = _numbers("std", typer.prompt("Standard deviation of each", default=std))
    data_root = data_root or typer.prompt("Folder with test/CLASS/IMAGE", default="") or None
    return _Answers(source, weights, weights_entry, spec, data_root)


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{name} must be numbers separated by commas, got {text!r}") from None
