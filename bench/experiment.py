"""What the accuracy experiments share: a teacher with its test folder, banks, students, top-1."""

import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor, nn

from hast.bit_width import BitWidth
from hast.classifier_source import load_classifier
from hast.config import parse_section
from hast.engine import Engine, place, select_device
from hast.loops.calibrate import CalibrationConfig, bank_batches, calibrate, generator_batches
from hast.loops.finetune import FinetuneConfig, finetune
from hast.loops.synthesize import SynthesisConfig, batch_sizes, synthesize
from hast.networks.batch_norm import freeze
from hast.networks.blocks import find_blocks
from hast.networks.generator import Generator
from hast.networks.plan import PlanConfig, plan_quantization
from hast.networks.spec import ModelSpec
from hast.networks.student import prepare_student
from hast.progress import drain, track
from hast.runtime import device_of
from hast.storage.datasets import DatasetConfig, open_batches

Source = Annotated[str, typer.Option(help="Of the teacher, such as pytorchcv:resnet20_cifar10.")]
Weights = Annotated[Path, typer.Option(help="Its checkpoint.")]
Images = Annotated[Path, typer.Option(help="Folder that holds test/CLASS/IMAGE.")]
Mean = Annotated[str, typer.Option(help="Of the channels, comma-separated.")]
Std = Annotated[str, typer.Option(help="Of the channels, comma-separated.")]
Shape = Annotated[str, typer.Option(help="Of an image, CxHxW, where the source knows none.")]
Widths = Annotated[str, typer.Option(help="Comma-separated, such as w4a4,w3a3.")]


class Teacher(NamedTuple):
    network: nn.Module
    spec: ModelSpec
    images: Path


def open_teacher(
    source: str, weights: Path, images: Path, mean: str, std: str, device: str, shape: str = ""
) -> Teacher:
    known: dict[str, Any] = {"mean": floats(mean), "std": floats(std)}
    if shape:
        known["input_shape"] = tuple(map(int, shape.split("x")))
    network, spec = load_classifier(source, weights=str(weights), spec=known)
    return Teacher(place(freeze(network), select_device(device)), spec, images)


def parse_widths(text: str) -> list[BitWidth]:
    return [BitWidth.parse(name) for name in text.split(",")]


def make_bank(teacher: Teacher, settings: Mapping[str, Any], engine: Engine) -> Tensor:
    """Images (N, C, H, W)."""
    config = parse_section(dict(settings), SynthesisConfig, name="synthesize")
    batches = range(len(batch_sizes(config)))
    total = len(batches) * config.steps
    records = synthesize(teacher.network, None, teacher.spec, config, batches, engine)
    shown = track(records, total=total, label="synthesize", fields=("loss",))
    return torch.cat([step.images for step in shown if step.is_last])


def calibrated(
    teacher: Teacher,
    width: BitWidth,
    rules: Mapping[str, Any],
    ranges: Mapping[str, Any],
    *,
    generator: Generator | None,
    bank: Tensor,
    seed: int,
) -> nn.Module:
    """A student before fine-tuning; `rules` and `ranges` as in `layers` and `calibrate`.

    `generator` is only needed where its images set the ranges.
    """
    config = parse_section({"seed": seed, **ranges}, CalibrationConfig, name="calibrate")
    plan = plan_quantization(
        teacher.network, teacher.spec, width, parse_section(dict(rules), PlanConfig, name="layers")
    )
    student = prepare_student(teacher.network, teacher.spec, plan)
    batches: Callable[[], Iterator[Tensor]]
    if config.images == "bank":
        batches = partial(bank_batches, bank, config, device_of(teacher.network))
    else:
        assert generator is not None, "its images set the ranges"
        batches = partial(generator_batches, generator, config)
    drain(
        calibrate(student, teacher.network, batches, config),
        total=None, label="calibrate", show=False,
    )  # fmt: skip
    return student


def tune(
    student: nn.Module, teacher: Teacher, bank: Tensor, settings: Mapping[str, Any], engine: Engine,
    label: str,
) -> None:  # fmt: skip
    config = parse_section(dict(settings), FinetuneConfig, name="quantize")
    blocks = find_blocks(teacher.network, teacher.spec)
    records = finetune(
        student, teacher.network, bank, torch.ones(len(bank)), blocks, config, engine
    )
    drain(records, total=config.steps, label=label, fields=("loss",))


def correct_answers(network: nn.Module, teacher: Teacher) -> tuple[Tensor, Tensor]:
    """Whether each test image is answered rightly, (N,), and its label, (N,); in fp32."""
    device = device_of(network)
    config = DatasetConfig(name="folder", root=teacher.images)
    right, labels = [], []
    for images, truth in open_batches(config, "test", teacher.spec):
        with torch.no_grad():
            right.append(network(images.to(device)).argmax(1).cpu() == truth)
        labels.append(truth)
    return torch.cat(right), torch.cat(labels)


def halves(right: Tensor, labels: Tensor) -> dict[str, float]:
    """Top-1 in percent on all images and on the first and the second half of each class."""
    first = torch.zeros_like(right)
    for label in labels.unique():
        index = (labels == label).nonzero().squeeze(1)
        first[index[: len(index) // 2]] = True
    parts = {"all": torch.ones_like(first), "first_half": first, "second_half": ~first}
    return {name: 100 * right[part].double().mean().item() for name, part in parts.items()}


def mean_and_spread(values: list[float]) -> str:
    """Mean ± standard deviation; one value has no deviation."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def floats(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))
