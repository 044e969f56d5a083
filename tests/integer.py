"""The reference of integer arithmetic: what a runtime with integer kernels computes."""

import copy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
