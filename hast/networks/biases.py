"""Biases as an integer kernel adds them.

Such a kernel sums up products of codes in 32 bits, so its bias is an integer too, in steps of both
scales. At few bits these steps are coarse: up to a hundredth of the steps in which the layer's
answer is rounded afterwards, so one value in a hundred would fall to the next code in the deployed
network alone. So the student's biases are multiples as well.
"""

from typing import Any

import torch
from torch import nn

from hast.config.targets import TARGETS
from hast.networks.batch_norm import scale_and_shift
from hast.networks.call_sites import SITE
from hast.networks.codes import weight_codes
from hast.networks.folding import foldable
from hast.networks.plan import TRANSPOSED
from hast.networks.provenance import spec_and_plan
from hast.networks.student import shared_quantizers

LARGEST_BIAS = 2**24  # where a bias has more steps, the exporter makes the steps larger


@torch.no_grad()
def round_biases(student: nn.Module) -> None:
    """Round in place the biases of layers that a target computes in integers, or of the BatchNorm
    layers that they take in there.

    Args:
        student: quantizing, eval mode.
    """
    spec, plan = spec_and_plan(student)
    rules = TARGETS[plan.target]
    if not rules.quantizes_biases:
        return
    norms, shared = foldable(student, spec), shared_quantizers(student)
    for name, codes in weight_codes(student).items():
        layer: Any = student.get_submodule(name)
        sites = shared.get(name, getattr(layer, SITE, ()))
        if plan.placement != "inputs" or len(sites) != 1 or isinstance(layer, TRANSPOSED):
            continue  # the scale of what it reads is not one, or not known here
        step = sites[0].scale * codes.qparams.scale.flatten() / rules.spread(codes.bits)
        bias = owner = layer.bias
        if name in norms:
            norm: Any = student.get_submodule(norms[name])
            gain, shift = scale_and_shift(norm)
            bias, owner = shift if bias is None else shift + bias * gain, norm.bias
            step = step * gain.abs()
        if owner is not None:
            steps = bias / step
            owner += torch.where(steps.abs() < LARGEST_BIAS, steps.round() * step - bias, 0)
