"""Biases as an integer kernel adds them.

Such a kernel sums up products of codes in 32 bits, so its bias is an integer too, in steps of both
scales. At few bits these steps are coarse: up to a hundredth of the steps in which the layer's
answer is rounded afterwards, so one value in a hundred would fall to the next code in the deployed
network alone. So the student's biases are multiples as well.
"""

import copy
from collections import Counter
from typing import Any

import torch
from torch import nn

from hast.config.targets import TARGETS
from hast.networks.batch_norm import batch_norms, scale_and_shift
from hast.networks.call_sites import SITE
from hast.networks.codes import codes_of
from hast.networks.outputs import integer_layers
from hast.networks.plan import TRANSPOSED
from hast.networks.provenance import spec_and_plan
from hast.networks.student import remove_quantizers, shared_quantizers

_LARGEST = 2**24  # where a bias has more steps, the exporter makes the steps larger


@torch.no_grad()
def round_biases(student: nn.Module) -> None:
    """Round in place the biases of layers that a target computes in integers, or of the BatchNorm
    layers that they take in there. One that several modules share stays.

    Args:
        student: quantizing, eval mode.
    """
    spec, plan = spec_and_plan(student)
    rules = TARGETS[plan.target]
    if not rules.quantizes_biases or plan.placement != "inputs":
        return  # behind ReLUs it is not known which scale a layer reads
    held = (p for module in student.modules() for p in module._parameters.values())
    holders, norms = Counter(map(id, held)), batch_norms(student)
    shared = shared_quantizers(student)
    network = remove_quantizers(copy.deepcopy(student))
    for name, norm_name in integer_layers(network, spec, plan).items():
        layer: Any = student.get_submodule(name)
        norm: Any = student.get_submodule(norm_name)
        sites: Any = shared.get(name, getattr(layer, SITE, ()))
        # The scale of a transposed convolution may be another one than that of its output.
        if len(sites) != 1 or isinstance(layer, TRANSPOSED) or (norm_name and norm not in norms):
            continue
        codes = codes_of(layer)
        step = sites[0].scale * codes.qparams.scale.flatten() / rules.spread(codes.bits)
        bias = owner = layer.bias
        if norm_name:
            gain, shift = scale_and_shift(norm)
            bias, owner = shift if bias is None else shift + bias * gain, norm.bias
            step = step * gain.abs()
        if owner is not None and holders[id(owner)] == 1:
            steps = bias / step
            owner += torch.where(steps.abs() < _LARGEST, steps.round() * step - bias, 0)
