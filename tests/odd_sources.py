"""Factories of networks as a `python:` source may return them."""

import torch
from torch import nn
from torch.nn.utils import parametrizations
from torchvision.ops import FrozenBatchNorm2d


class _Small(nn.Module):
    def __init__(self, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), norm(8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


def normalized() -> nn.Module:
    network = _Small()
    parametrizations.weight_norm(network.conv)
    return network


def normalized_by_hook() -> nn.Module:
    network = _Small()
    nn.utils.spectral_norm(network.conv)
    return network


def parallel() -> nn.Module:
    return nn.DataParallel(_Small())


def frozen() -> nn.Module:
    return _Small(FrozenBatchNorm2d)


def half() -> nn.Module:
    return _Small().half()
