"""The integers inside a student: the codes of its weights, and where activations become codes."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize

from hast.math.quantization import QParams, dequantize, quantize
from hast.networks.call_sites import SITE, CallSites
from hast.networks.quantizers import ActivationQuantizer, FixedWeightQuantizer


class Codes(NamedTuple):
    """A quantized weight: `dequantize(codes, qparams)` is, to the bit, what the layer computes
    with."""

    codes: Tensor  # of the weight's shape, integer-valued floats in [0, quant_max]
    qparams: QParams  # one for each entry of `axis`: (C_out, 1, ...) of all but transposed ones
    bits: int
    axis: int = 0  # see `channel_axis`


def weight_codes(student: nn.Module) -> dict[str, Codes]:
    """Codes of every quantized weight by module name, in definition order."""
    return {
        name: codes_of(module)
        for name, module in student.named_modules()
        if parametrize.is_parametrized(module, "weight")
    }


def codes_of(module: nn.Module) -> Codes:
    """Codes of the weight of one quantized Conv or Linear."""
    held: Any = module.get_submodule("parametrizations.weight")
    quantizer, original = held[0], held.original.detach()
    scale, zero_point, quant_max = quantizer.qparams_of(original)
    qparams = QParams(scale.detach(), zero_point, quant_max)
    return Codes(quantize(original, qparams), qparams, quantizer.bits, quantizer.axis)


def set_codes(module: nn.Module, codes: Codes) -> None:
    """Let a quantized Conv or Linear compute with these codes from now on."""
    held: Any = module.get_submodule("parametrizations.weight")
    scale, zero_point, _ = codes.qparams
    held[0] = FixedWeightQuantizer(codes.bits, scale, zero_point, codes.axis)
    # Not into the old parameter: a layer that is not quantized may share it.
    values = dequantize(codes.codes, codes.qparams)
    held.original = nn.Parameter(values, requires_grad=held.original.requires_grad)


def activation_sites(student: nn.Module) -> dict[str, CallSites]:
    """All lists of activation quantizers by the name of their module, in definition order; those
    behind a module by their own name."""
    return {
        name.removesuffix(SITE).removesuffix("."): module
        for name, module in student.named_modules()
        if isinstance(module, CallSites)
    }


def activation_quantizers(student: nn.Module) -> list[ActivationQuantizer]:
    """All activation quantizers, in definition order and then in the order of the calls."""
    return [m for m in student.modules() if isinstance(m, ActivationQuantizer)]


def lower(
    student: nn.Module,
    weight: Callable[[Codes], tuple[nn.Module, Tensor]],
    activation: Callable[[QParams], nn.Module],
) -> nn.Module:
    """Copy a student and put modules of another form in the place of its quantizers.

    Args:
        student: quantizing, eval mode.
        weight: makes a module and what to store; the module turns that into the weight.
        activation: makes a module that quantizes and dequantizes its argument.
    """
    lowered = copy.deepcopy(student).cpu().eval().requires_grad_(False)
    for name, codes in weight_codes(lowered).items():
        held: Any = lowered.get_submodule(f"{name}.parametrizations.weight".lstrip("."))
        held[0], stored = weight(codes)
        held.original = nn.Parameter(stored, requires_grad=False)
    for sites in activation_sites(lowered).values():
        for site, quantizer in enumerate(sites):
            qparams: Any = quantizer.qparams
            sites[site] = activation(qparams)
    return lowered
