"""BatchNorm folded into the quantized layer before it, without touching a code.

A BatchNorm in eval mode computes g * y + h for each channel. The layer's scale takes |g|, its bias
takes h, and where g is negative the channel's codes are mirrored: the same integers, another scale.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hast.config.spec import ModelSpec
from hast.math.quantization import QParams, per_channel
from hast.networks.batch_norm import is_plain, scale_and_shift
from hast.networks.call_sites import OUTPUT_SITE, attach_behind
from hast.networks.codes import Codes, codes_of, set_codes
from hast.networks.plan import TRANSPOSED, WEIGHTED
from hast.networks.trace import Trace


def fold_batch_norm(network: nn.Module, spec: ModelSpec) -> nn.Module:
    """Copy a student or teacher and fold every BatchNorm that alone reads a Conv or Linear.

    Equal to rounding in exact arithmetic; a value that lies between two codes may still fall to
    the other side. Subclasses of BatchNorm stay, for they may do more than normalize.

    Args:
        network: in eval mode.
        spec: gives the input shape of the pass that looks what follows what.
    """
    folded = copy.deepcopy(network)
    for layer, norm in foldable(folded, spec).items():
        _fold(folded.get_submodule(layer), folded.get_submodule(norm))
        _take_out(folded, folded.get_submodule(norm))
    return folded


def foldable(network: nn.Module, spec: ModelSpec) -> dict[str, str]:
    """Names of Conv and Linear modules, each with the BatchNorm it can take in."""
    trace = Trace(network, spec)
    pairs = [(value.module, value.norm) for value in trace.values if value.norm]
    once = [(layer, norm) for layer, norm in pairs if trace.calls[layer] == trace.calls[norm] == 1]
    named = dict(network.named_modules())
    return {
        layer: norm for layer, norm in once if _takes_in(named[layer]) and is_plain(named[norm])
    }


def _takes_in(module: nn.Module) -> bool:
    """Its scales are one for each output: those of transposed convolutions may be shared."""
    return isinstance(module, WEIGHTED) and not isinstance(module, TRANSPOSED)


def _fold(layer: Any, norm: Any) -> None:
    gain, shift = scale_and_shift(norm)
    if layer.bias is not None:
        shift = shift + layer.bias.detach() * gain
    if parametrize.is_parametrized(layer, "weight"):
        set_codes(layer, _scaled(codes_of(layer), gain))
    else:
        # A new parameter: another layer may share the old one.
        layer.weight = nn.Parameter(layer.weight.detach() * per_channel(gain, layer.weight))
    layer.bias = nn.Parameter(shift)


def _take_out(network: nn.Module, norm: nn.Module) -> None:
    """Put an identity in the place of `norm`, under all its names; it quantizes as `norm` did."""
    identity = nn.Identity()
    if hasattr(norm, OUTPUT_SITE):
        attach_behind(identity, getattr(norm, OUTPUT_SITE))
    for parent in list(network.modules()):
        for leaf, child in parent._modules.items():
            if child is norm:
                parent._modules[leaf] = identity


def _scaled(codes: Codes, gain: Tensor) -> Codes:
    """Codes of the weight times `gain` (C_out,)."""
    integers, (scale, zero_point, quant_max), bits, _ = codes
    gain = per_channel(gain, integers)
    mirrored = gain < 0
    integers = torch.where(mirrored, quant_max - integers, integers)
    zero_point = torch.where(mirrored, quant_max - zero_point, zero_point)
    scale = scale * gain.abs()
    # A channel without gain is zero; its scale must stay one that can be divided by.
    tiny = torch.finfo(scale.dtype).tiny
    integers = torch.where(scale < tiny, zero_point.expand_as(integers), integers)
    return Codes(integers, QParams(scale.clamp(min=tiny), zero_point, quant_max), bits)
