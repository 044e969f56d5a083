"""What the accuracy experiments share: a teacher with its test folder, banks, students, top-1."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor, nn

from hast.bank.record import Bank, BankCard
from hast.config.bit_width import BitWidth
from hast.config.dataset import DatasetConfig
from hast.config.spec import ModelSpec
from hast.engine.engine import place, select_device
from hast.files.classifiers import load_classifier
from hast.files.datasets import open_batches
from hast.loops.evaluate import joined, predict
from hast.networks.batch_norm import freeze
from hast.networks.fingerprint import fingerprint

Source = Annotated[str, typer.Option(help="Of the teacher, such as pytorchcv:resnet20_cifar10.")]
Weights = Annotated[
    Path | None, typer.Option(help="Its checkpoint; none where the source loads it.")
]
Images = Annotated[Path, typer.Option(help="Folder that holds test/CLASS/IMAGE, or `digits`.")]
Mean = Annotated[str, typer.Option(help="Of the channels, comma-separated.")]
Std = Annotated[str, typer.Option(help="Of the channels, comma-separated.")]
Shape = Annotated[str, typer.Option(help="Of an image, CxHxW, where the source knows none.")]
Widths = Annotated[str, typer.Option(help="Comma-separated, such as w4a4,w3a3.")]


class TakesPixels(nn.Module):
    """A network that normalizes itself what it is given in [0, largest]."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, spec: ModelSpec, largest: float) -> None:
        super().__init__()
        self.network = network
        # Buffers: banks and results are told apart by what a state dict holds.
        self.register_buffer("scale", largest * torch.tensor(spec.std).view(-1, 1, 1))
        self.register_buffer("shift", torch.tensor(spec.mean).view(-1, 1, 1) / self.scale * largest)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x / self.scale - self.shift)
        return logits


class Teacher(NamedTuple):
    network: nn.Module
    spec: ModelSpec
    data: DatasetConfig  # holds the test images


def open_teacher(
    source: str, weights: Path | None, images: Path, mean: str, std: str, device: str,
    shape: str = "", crop_fraction: float = 1.0, largest: float = 0.0,
) -> Teacher:  # fmt: skip
    known: dict[str, Any] = {"mean": floats(mean), "std": floats(std)}
    if shape:
        known["input_shape"] = tuple(map(int, shape.split("x")))
    network, spec = load_classifier(source, weights=str(weights) if weights else None, spec=known)
    if largest:
        network = TakesPixels(network, spec, largest)
        zeros, scale = (0.0,) * len(spec.mean), (1 / largest,) * len(spec.mean)
        spec = spec.model_copy(update={"mean": zeros, "std": scale})
    placed = place(freeze(network), select_device(device))
    return Teacher(placed, spec, dataset(images, crop_fraction))


def is_digits(images: Path) -> bool:
    return str(images) == "digits"


def dataset(images: Path, crop_fraction: float = 1.0) -> DatasetConfig:
    if is_digits(images):
        return DatasetConfig(name="digits")
    return DatasetConfig(name="folder", root=images, crop_fraction=crop_fraction)


def parse_widths(text: str) -> list[BitWidth]:
    return [BitWidth.parse(name) for name in text.split(",")]


def bank_of(network: nn.Module, spec: ModelSpec, images: Tensor) -> Bank:
    """Images (N, C, H, W) as a bank without labels, made for a teacher."""
    made_for = fingerprint(network.state_dict())
    card = BankCard(samples=len(images), spec=spec, teacher=made_for, synthesis={})
    return Bank(images, torch.zeros(len(images)), card)


def correct_answers(network: nn.Module, teacher: Teacher) -> tuple[Tensor, Tensor]:
    """Whether each test image is answered rightly, (N,), and its label, (N,); in fp32."""
    batches = open_batches(teacher.data, "test", teacher.spec)
    seen = joined(predict({"network": network}, batches))
    return seen.by_network["network"].answer == seen.labels, seen.labels


def halves(right: Tensor, labels: Tensor) -> dict[str, float]:
    """Top-1 in percent on all images and on the first and the second half of each class."""
    first = torch.zeros_like(right)
    for label in labels.unique():
        index = (labels == label).nonzero().squeeze(1)
        first[index[: len(index) // 2]] = True
    parts = {"all": torch.ones_like(first), "first_half": first, "second_half": ~first}
    return {name: 100 * right[part].double().mean().item() for name, part in parts.items()}


def mean_and_spread(values: Sequence[float | None]) -> str:
    """Mean ± standard deviation; one value has no deviation, and a missing one no mean."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "–"
    if len(known) == 1:
        return f"{known[0]:.2f}"
    return f"{statistics.mean(known):.2f} ± {statistics.stdev(known):.2f}"


def floats(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))
