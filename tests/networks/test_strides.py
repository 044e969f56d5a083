"""Depthwise convolutions whose strides are taken afterwards."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hast.engine.engine import Engine
from hast.networks.strides import strides_afterwards

BF16 = Engine(bf16=True)


class PadsByItsStride(nn.Conv2d):
    """As TensorFlow's, where the image decides."""

    def forward(self, x):
        sides = [(-(-n // s) - 1) * s + k - n for n, s, k in zip(
            x.shape[:1:-1], self.stride[::-1], self.kernel_size[::-1], strict=True
        )]  # fmt: skip
        width, height = (max(0, side) for side in sides)
        return super().forward(F.pad(x, (width // 2, -(-width // 2), height // 2, height)))


def depthwise(kind=nn.Conv2d, stride=2, **settings):
    torch.manual_seed(0)
    return kind(4, 8, 3, stride, groups=4, **settings)


@pytest.mark.parametrize("stride", [2, 3, (1, 2)])
@pytest.mark.parametrize("settings", [{}, {"padding": 1}, {"dilation": 2}])
def test_the_answers_are_the_same(stride, settings):
    layer = depthwise(stride=stride, **settings)
    seen, x = [], torch.randn(2, 4, 11, 14)
    layer.register_forward_hook(lambda _module, _args, output: seen.append(output.shape))
    expected = layer(x)
    with strides_afterwards(layer, BF16):
        assert layer.stride == (1, 1)
        torch.testing.assert_close(layer(x), expected)
    assert layer.stride == ((stride, stride) if isinstance(stride, int) else stride)
    assert layer(x).shape == seen[0] == seen[1]
    assert len(layer._forward_hooks) == 1


@pytest.mark.parametrize(
    ("layer", "engine"),
    [
        (nn.Conv2d(4, 8, 3, 2), BF16),
        (depthwise(stride=1), BF16),
        (depthwise(PadsByItsStride), BF16),
        (depthwise(), Engine()),
    ],
    ids=["not depthwise", "no stride", "pads by its stride", "fp32"],
)
def test_others_stay(layer, engine):
    stride = layer.stride
    with strides_afterwards(layer, engine):
        assert layer.stride == stride
        assert not layer._forward_hooks
