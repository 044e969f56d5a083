"""Other teachers for bench.accuracy: small networks of torchvision's parts, trained in minutes.

    python -m bench.teachers small_vgg --images FOLDER --mean ... --std ... --out vgg.safetensors
    python -m bench.accuracy --source python:bench.teachers:small_vgg --shape 3x32x32 \
        --weights vgg.safetensors ...

No recipe was chosen with any of them, and each is another kind of network than ResNet-20. The
built-in digits are trained on with `digits_resnet --images digits`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import DenseNet, MobileNetV3, RegNet, ShuffleNetV2
from torchvision.models.mobilenetv3 import InvertedResidualConfig
from torchvision.models.regnet import BlockParams
from torchvision.models.vgg import make_layers

from bench.experiment import Images, Mean, Std, Teacher, correct_answers, dataset, floats, is_digits
from hast.config.spec import ModelSpec
from hast.engine.engine import choose_engine, place, place_images, select_device
from hast.engine.progress import drain
from hast.engine.runtime import device_of, make_deterministic, seeded
from hast.files.datasets import open_batches
from hast.loops.train_teacher import TrainingStep
from hast.math.augmentation import random_resized_crop
from hast.networks.batch_norm import freeze
from hast.networks.digits_resnet import DigitsResNet

_BATCH, _RATE = 128, 0.1


def small_vgg(num_classes: int = 10) -> nn.Module:
    """A VGG with BatchNorm, as much work as a ResNet-20."""
    layers: list[str | int] = [32, 32, "M", 64, 64, "M", 128, 128, "M"]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, num_classes)]
    return nn.Sequential(make_layers(layers, batch_norm=True), *head)


def small_mobilenet(num_classes: int = 10) -> MobileNetV3:
    """A MobileNetV3: depthwise convolutions, squeeze and excitation, Hardswish."""
    blocks = [  # kernel, channels inside and out, squeeze and excitation, stride
        (3, 32, 16, False, 1), (3, 64, 24, True, 2), (3, 96, 24, True, 1),
        (5, 96, 40, True, 2), (5, 160, 40, True, 1), (5, 160, 40, True, 1),
    ]  # fmt: skip
    channels = [16, *(block[2] for block in blocks)]
    settings = [
        InvertedResidualConfig(ins, kernel, inside, out, squeezed, "HS", stride, 1, 1.0)
        for ins, (kernel, inside, out, squeezed, stride) in zip(channels, blocks, strict=False)
    ]
    return MobileNetV3(settings, last_channel=256, num_classes=num_classes, dropout=0.0)


def small_densenet(num_classes: int = 10) -> DenseNet:
    """A DenseNet, whose layers read the concatenated outputs of all before them."""
    network = DenseNet(12, (4, 4, 4), num_init_features=24, bn_size=2, num_classes=num_classes)
    network.features.conv0 = nn.Conv2d(3, 24, 3, padding=1, bias=False)
    return network


def small_shufflenet(num_classes: int = 10) -> ShuffleNetV2:
    """A ShuffleNetV2: channels are split, half of them transformed, and shuffled."""
    network = ShuffleNetV2([3, 4, 3], [24, 64, 128, 192, 256], num_classes=num_classes)
    network.maxpool = nn.Identity()
    return network


def small_regnet(num_classes: int = 10) -> RegNet:
    """A RegNet: bottlenecks of grouped convolutions with squeeze and excitation."""
    blocks = BlockParams(
        depths=[1, 2, 2], widths=[32, 64, 128], group_widths=[16] * 3,
        bottleneck_multipliers=[1.0] * 3, strides=[1, 2, 2], se_ratio=0.25,
    )  # fmt: skip
    return RegNet(blocks, num_classes=num_classes)


def digits_resnet(num_classes: int = 10) -> nn.Module:
    return DigitsResNet(num_classes)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    make.__name__: make
    for make in (
        small_vgg, small_mobilenet, small_densenet, small_shufflenet, small_regnet, digits_resnet,
    )
}  # fmt: skip


def main(
    network: Annotated[str, typer.Argument(help=", ".join(NETWORKS))],
    images: Images,
    mean: Mean,
    std: Std,
    out: Annotated[Path, typer.Option(help="Checkpoint to write.")],
    epochs: int = 16,
    seed: int = 0,
    device: str = "auto",
) -> None:
    make_deterministic()
    shape = (1, 8, 8) if is_digits(images) else (3, 32, 32)
    spec = ModelSpec(input_shape=shape, num_classes=10, mean=floats(mean), std=floats(std))
    data = dataset(images)
    batches = open_batches(data, "train", spec)
    pixels, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    torch.manual_seed(seed)
    trained = place(NETWORKS[network](), select_device(device))
    random = seeded(seed, "second teacher")
    records = train(
        trained, pixels, labels, epochs=epochs, flip=not is_digits(images), random=random
    )
    drain(records, total=epochs * (len(pixels) // _BATCH), label="train", fields=("loss",))
    save_file({name: value.cpu().contiguous() for name, value in trained.state_dict().items()}, out)
    right, _ = correct_answers(trained, Teacher(trained, spec, data))
    print(f"{out}: top-1 {100 * right.double().mean():.2f}")


def train(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    flip: bool,
    random: torch.Generator,
) -> Iterator[TrainingStep]:
    """SGD with a one-cycle rate on crops; the last step is the result."""
    device = device_of(network)
    images, labels = images.to(device), labels.to(device)
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
            x = random_resized_crop(images[batch], min_scale=0.5, flip=flip, generator=random)
            loss = wrapped.step(gradients, place_images(x, device), labels[batch])
            optimizer.step()
            schedule.step()
            yield TrainingStep(loss.detach())
    freeze(network)


if __name__ == "__main__":
    typer.run(main)
