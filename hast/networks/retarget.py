"""A student for another target than the one it was trained for."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from hast.config.targets import TARGETS, Target, TargetRules
from hast.engine.runtime import device_of
from hast.errors import InputError
from hast.math.quantization import choose_qparams, dequantize, quantize
from hast.networks.codes import Codes, activation_quantizers, set_codes, weight_codes
from hast.networks.plan import check_target
from hast.networks.provenance import remember, spec_and_plan
from hast.networks.quantizers import WeightQuantizer


def retargeted(
    student: nn.Module, target: Target, images: Tensor | None = None, min_agreement: float = 0.0
) -> nn.Module:
    """`student`, or a copy whose codes follow the rules of `target` where its own do not.

    Zero points move, so values are rounded once more.

    Args:
        student: of the method.
        target: of the copy.
        images: normalized, (N, C, H, W), on which answers are compared.
        min_agreement: least share of them, in [0, 1], that both must answer alike.

    Raises:
        InputError: it is no student, the target has no kernels for one of its widths, or the copy
            answers otherwise too often.
    """
    _, plan = spec_and_plan(student)
    rules, own = TARGETS[target], TARGETS[plan.target]
    if target == plan.target:
        return student
    check_target(target, plan.activations)
    original, student = student, copy.deepcopy(student)
    remember(student, plan=plan.model_copy(update={"target": target}))
    for name, codes in weight_codes(student).items():
        if _becomes_symmetric(own, rules, weight=True, bits=codes.bits):
            set_codes(student.get_submodule(name), _symmetric(codes))
    for quantizer in activation_quantizers(student):
        if _becomes_symmetric(own, rules, weight=False, bits=quantizer.bits):
            scale, zero_point, quant_max = quantizer.qparams
            low, high = -zero_point * scale, (quant_max - zero_point) * scale
            quantizer.fix(choose_qparams(low, high, bits=quantizer.bits, symmetric=True))
    if images is not None:
        images = images.to(device_of(original))
        with torch.no_grad():
            alike = (student(images).argmax(1) == original(images).argmax(1)).float().mean().item()
        if alike < min_agreement:
            raise InputError(
                f"the numbers of target '{target}' change too many answers of a student for"
                f" '{plan.target}': {100 * alike:.6g}% of {len(images)} images are answered alike,"
                f" at least {100 * min_agreement:.6g}% is asked for (min_agreement); train it with"
                f" target: {target} under layers"
            )
    return student


def _becomes_symmetric(own: TargetRules, rules: TargetRules, **kind: Any) -> bool:
    return rules.is_symmetric(**kind) and not own.is_symmetric(**kind)


def _symmetric(codes: Codes) -> Codes:
    weight = dequantize(codes.codes, codes.qparams)
    qparams = WeightQuantizer(codes.bits, codes.axis, symmetric=True).qparams_of(weight)
    return Codes(quantize(weight, qparams), qparams, codes.bits, codes.axis)
