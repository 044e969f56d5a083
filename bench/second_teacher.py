"""Another teacher for bench.accuracy: a VGG of torchvision's parts, trained on an image folder.

    python -m bench.second_teacher --images FOLDER --mean ... --std ... --out vgg.safetensors
    python -m bench.accuracy --source python:bench.second_teacher:small_vgg --shape 3x32x32 \
        --weights vgg.safetensors ...

No recipe was chosen with it, and it is another kind of network than ResNet-20: without residual
blocks, so that features are aligned at its BatchNorm layers.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.vgg import make_layers

from bench.experiment import Images, Mean, Std, Teacher, correct_answers, floats
from hast.config.dataset import DatasetConfig
from hast.config.spec import ModelSpec
from hast.engine.engine import choose_engine, place, place_images, select_device
from hast.engine.progress import drain
from hast.engine.runtime import device_of, make_deterministic, seeded
from hast.files.datasets import open_batches
from hast.loops.train_teacher import TrainingStep
from hast.math.augmentation import random_resized_crop
from hast.networks.batch_norm import freeze

_BATCH, _RATE = 128, 0.1
_LAYERS: list[str | int] = [32, 32, "M", 64, 64, "M", 128, 128, "M"]


def small_vgg(num_classes: int = 10) -> nn.Module:
    """A VGG with BatchNorm for images of 32 x 32, as much work as a ResNet-20."""
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, num_classes)]
    return nn.Sequential(make_layers(_LAYERS, batch_norm=True), *head)


def main(
    images: Images,
    mean: Mean,
    std: Std,
    out: Annotated[Path, typer.Option(help="Checkpoint to write.")],
    epochs: int = 16,
    seed: int = 0,
    device: str = "auto",
) -> None:
    make_deterministic()
    spec = ModelSpec(input_shape=(3, 32, 32), num_classes=10, mean=floats(mean), std=floats(std))
    batches = open_batches(DatasetConfig(name="folder", root=images), "train", spec)
    pixels, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    torch.manual_seed(seed)
    network = place(small_vgg(), select_device(device))
    records = train(network, pixels, labels, epochs=epochs, random=seeded(seed, "second teacher"))
    drain(records, total=epochs * (len(pixels) // _BATCH), label="train", fields=("loss",))
    save_file({name: value.cpu().contiguous() for name, value in network.state_dict().items()}, out)
    right, _ = correct_answers(network, Teacher(network, spec, images))
    print(f"{out}: top-1 {100 * right.double().mean():.2f}")


def train(
    network: nn.Module, images: Tensor, labels: Tensor, *, epochs: int, random: torch.Generator
) -> Iterator[TrainingStep]:
    """SGD with a one-cycle rate on crops and mirrored images; the last step is the result."""
    device = device_of(network)
    steps = len(images) // _BATCH
    network.train().requires_grad_(True)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=_RATE, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=epochs * steps)

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(network(x).float(), y)

    wrapped = choose_engine(device, work=float("inf")).wrap(loss_of, device)

    def gradients(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = wrapped(x, y)
        loss.backward()
        return loss

    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=random).split(_BATCH)[:steps]:
            x = random_resized_crop(images[batch], min_scale=0.5, flip=True, generator=random)
            loss = wrapped.step(gradients, place_images(x, device), labels[batch].to(device))
            optimizer.step()
            schedule.step()
            yield TrainingStep(loss.detach())
    freeze(network)


if __name__ == "__main__":
    typer.run(main)
