"""Calibrated students of networks with random weights, for tests of what happens to a student."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from conftest import spec_of
from torch import Tensor, nn

from hast.config.bit_width import BitWidth
from hast.config.layers import PlanConfig
from hast.config.spec import ModelSpec
from hast.engine.engine import place
from hast.loops.calibrate import observe_ranges
from hast.networks.batch_norm import freeze
from hast.networks.plan import plan_quantization
from hast.networks.sources import build_network
from hast.networks.student import prepare_student


class Net(nn.Module):
    """A network of parts that a function of the instance and the image puts together."""

    def __init__(self, compute: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.compute = compute

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(self, x)


class NormAndActivation(nn.BatchNorm2d):
    """As timm's: a BatchNorm that does more than normalize."""

    def forward(self, x):
        return super().forward(x).relu()


def warm_network(network: nn.Module, spec: ModelSpec) -> nn.Module:
    """BatchNorm statistics of noise, and gains of both signs."""
    torch.manual_seed(0)
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias)
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(8, *spec.input_shape))
    return freeze(network)


def warm_classifier(source: str, arguments: dict, shape: tuple) -> tuple[nn.Module, ModelSpec]:
    """A network of a source with `num_classes` 10."""
    spec = spec_of(shape, std=(0.25,) * shape[0])
    torch.manual_seed(0)
    return warm_network(build_network(source, {"num_classes": 10} | arguments).network, spec), spec


def prepared(
    network: nn.Module, spec: ModelSpec, bits: str = "w4a4", *, range_momentum: float = 0.9, **rules
) -> nn.Module:
    """A student without activation ranges."""
    config = PlanConfig(**({"placement": "inputs"} | rules))
    plan = plan_quantization(network, spec, BitWidth.parse(bits), config)
    return prepare_student(network, spec, plan, range_momentum=range_momentum)


def observed(
    network: nn.Module, spec: ModelSpec, images: Tensor, bits: str = "w4a4", **rules
) -> nn.Module:
    """A student that can be trained, whose activation ranges are those of the images."""
    student = prepared(network, spec, bits, **rules)
    list(observe_ranges(student, [images]))
    return student


def calibrated(network: nn.Module, spec: ModelSpec, bits: str = "w4a4", **rules) -> nn.Module:
    """A frozen student whose activation ranges are those of noise."""
    student = place(prepared(network, spec, bits, **rules), torch.device("cpu"))
    torch.manual_seed(1)
    noise = (torch.randn(8, *spec.input_shape) for _ in range(3))
    list(observe_ranges(student, noise))
    return freeze(student)


def is_same(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return state.keys() == expected.keys() and all(
        torch.equal(tensor, expected[name]) for name, tensor in state.items()
    )


def count_hooks(network: nn.Module) -> list[int]:
    return [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in network.modules()]


def own_parameters() -> Net:
    """A convolution module of 3*4*9 weights, then one and a head on parameters of its own."""
    return Net(
        lambda net, x: F.linear(
            F.conv2d(net.stem(x).relu(), net.kernel, padding=1).mean((2, 3)), net.head
        ),
        stem=nn.Conv2d(3, 4, 3, padding=1),
        kernel=nn.Parameter(torch.randn(8, 4, 3, 3)),
        head=nn.Parameter(torch.randn(10, 8)),
    )


def imagenet(name: str) -> nn.Module:
    """A network of torchvision for images of IMAGENET, with random weights."""
    return freeze(torchvision.models.get_model(name, weights=None, num_classes=7))


IMAGENET = spec_of((3, 64, 64), 7)


class Sharing(nn.Module):
    """Two convolutions with one weight, then a transposed one."""

    def __init__(self, groups=1):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.a, self.b = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.b.weight = self.a.weight
        self.up = nn.ConvTranspose2d(8, 16, 2, 2, groups=groups)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = F.relu(self.b(F.relu(self.a(F.relu(self.norm(self.first(x)))))))
        return self.head(F.relu(self.up(x)).mean((2, 3)))


SHARING = spec_of((3, 8, 8))
