"""A packed checkpoint is an integer network."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from students import calibrated, warm_classifier
from torch import Tensor, nn

import hast
from hast.math.quantization import QParams, dequantize, quantize
from hast.networks.codes import Codes, activation_sites, weight_codes


def integer_network(student: nn.Module) -> nn.Module:
    """A copy of a student of placement `inputs` whose Conv2d and Linear layers multiply codes.

    `scale_x * scale_w * sum (x_int - zero_x) * (w_int - zero_w) + bias`. The sum is taken in
    float64, which holds integers up to 2**53 exactly. What lies between the layers stays as it is.
    """
    network = copy.deepcopy(student)
    for name, weight in weight_codes(network).items():
        layer: Any = network.get_submodule(name)
        (site,) = activation_sites(network)[name]
        layer.forward = partial(_forward, layer, weight, site.qparams)
    return network


def _forward(layer: Any, weight: Codes, act: QParams, x: Tensor) -> Tensor:
    codes = quantize(x, act)
    assert torch.equal(dequantize(codes, act), x), "the input is not on the quantizer's grid"
    integers = (codes - act.zero_point).double()
    weights = (weight.codes - weight.qparams.zero_point).double()
    if isinstance(layer, nn.Linear):
        total, shape = F.linear(integers, weights), (-1,)
    else:
        total, shape = layer._conv_forward(integers, weights, None), (-1, 1, 1)
    assert torch.equal(total, total.round())
    result = total.float() * (weight.qparams.scale.view(shape) * act.scale)
    return result if layer.bias is None else result + layer.bias.view(shape)


@pytest.mark.parametrize(
    ("source", "arguments", "shape", "bits"),
    [
        ("builtin:digits_resnet", {"widths": (8, 16)}, (1, 8, 8), "w4a4"),
        ("builtin:digits_resnet", {"widths": (8, 16)}, (1, 8, 8), "w2a5"),
        ("builtin:digits_resnet", {"widths": (8, 16)}, (1, 8, 8), "w8a8"),
        ("torchvision:mobilenet_v2", {}, (3, 32, 32), "w8a8"),  # depthwise
    ],
)
def test_a_packed_checkpoint_is_answered_by_integers(source, arguments, shape, bits, tmp_path):
    network, spec = warm_classifier(source, arguments, shape)
    student = calibrated(network, spec, bits)
    hast.save(student, tmp_path / "packed")
    integer = integer_network(hast.load(tmp_path / "packed"))
    x = torch.randn(64, *shape)
    with torch.no_grad():
        answers, expected = integer(x), student(x)
    # A value between two codes may fall to the other side where sums are taken in another order.
    assert (answers.argmax(1) == expected.argmax(1)).float().mean() >= 0.98
    assert (answers - expected).abs().mean() < 0.02 * expected.std()
