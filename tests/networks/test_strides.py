"""Depthwise convolutions whose strides are taken afterwards."""

import pytest
import torch
import torch.nn.functional as F
from students import Net
from torch import nn

from hast.engine.engine import Engine
from hast.networks.strides import strides_afterwards

BF16 = Engine(bf16=True)
SHAPE = (4, 11, 14)


class PadsByItsStride(nn.Conv2d):
    """As TensorFlow's, where the image decides."""

    def forward(self, x):
        return super().forward(padded(x, self))


def padded(x, layer):
    sides = [(-(-n // s) - 1) * s + k - n for n, s, k in zip(
        x.shape[:1:-1], layer.stride[::-1], layer.kernel_size[::-1], strict=True
    )]  # fmt: skip
    width, height = (max(0, side) for side in sides)
    return F.pad(x, (width // 2, -(-width // 2), height // 2, height))


def network(layer, *, before=lambda x, _layer: x, after=lambda x: x):
    torch.manual_seed(0)
    parts = {"layer": layer, "fc": nn.Linear(layer.out_channels, 5)}
    compute = lambda net, x: net.fc(after(net.layer(before(x, net.layer))).mean((2, 3)))  # noqa: E731
    return Net(compute, **parts).eval()


def depthwise(kind=nn.Conv2d, stride=2, size=3, **settings):
    torch.manual_seed(0)
    return kind(4, 8, size, stride, groups=4, **settings)


@pytest.mark.parametrize("stride", [2, 3, (1, 2)])
@pytest.mark.parametrize("settings", [{}, {"padding": 1}, {"dilation": 2}])
def test_the_answers_are_the_same(stride, settings):
    net = network(depthwise(stride=stride, **settings))
    seen, x, layer = [], torch.randn(2, *SHAPE), net.layer
    layer.register_forward_hook(lambda _module, _args, output: seen.append(output.shape))
    expected, before = net(x), layer.stride
    with strides_afterwards(net, SHAPE, BF16):
        assert layer.stride == (1, 1)
        torch.testing.assert_close(net(x), expected)
    assert layer.stride == before
    assert layer(x).shape == seen[0] == seen[-1]
    assert len(layer._forward_hooks) == 1


@pytest.mark.parametrize(
    ("net", "engine"),
    [
        (network(nn.Conv2d(4, 8, 3, 2)), BF16),
        (network(depthwise(stride=1)), BF16),
        (network(depthwise(PadsByItsStride)), BF16),
        (network(depthwise(), before=padded), BF16),
        (network(depthwise(), after=lambda x: x.view(len(x), -1).view(x.shape)), BF16),
        (network(depthwise()), Engine()),
    ],
    ids=["not depthwise", "no stride", "pads by it", "is padded by it", "viewed", "fp32"],
)
def test_others_stay(net, engine):
    stride = net.layer.stride
    with strides_afterwards(net, SHAPE, engine):
        assert net.layer.stride == stride
        assert not net.layer._forward_hooks
