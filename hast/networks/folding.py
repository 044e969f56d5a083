"""BatchNorm folded into the quantized layer before it, without touching a code.

A BatchNorm in eval mode computes g * y + h for each channel. The layer's scale takes |g|, its bias
takes h, and where g is negative the channel's codes are mirrored: the same integers, another scale.
"""

import copy
from collections import Counter
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from hast.config.spec import ModelSpec
from hast.engine.runtime import device_of
from hast.math.quantization import QParams, per_channel
from hast.networks.batch_norm import is_plain, scale_and_shift
from hast.networks.call_sites import OUTPUT_SITE, attach_behind
from hast.networks.codes import Codes, codes_of, set_codes
from hast.networks.hooks import removed_at_exit, tensors_in
from hast.networks.plan import TRANSPOSED, WEIGHTED


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
    makers: dict[int, str] = {}  # of each output of a Conv or Linear, by identity
    pairs: dict[str, str] = {}
    calls: Counter[str] = Counter()
    seen = _Uses()

    def made(name: str, module: nn.Module, _args: Any, output: Tensor) -> None:
        calls[name] += 1
        if isinstance(module, nn.Linear) and output.ndim != 2:
            return  # BatchNorm1d would normalize positions, not the layer's channels
        seen.kept.append(output)  # so that its identity is not given to another tensor
        makers[id(output)] = name

    def read(name: str, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        calls[name] += 1
        if id(args[0]) in makers:
            pairs[makers[id(args[0])]] = name

    modules = list(network.named_modules())
    handles = [m.register_forward_hook(partial(made, n)) for n, m in modules if _takes_in(m)]
    handles += [m.register_forward_pre_hook(partial(read, n)) for n, m in modules if is_plain(m)]
    with removed_at_exit(handles), torch.no_grad(), seen:
        network(torch.zeros(2, *spec.input_shape, device=device_of(network)))
    uses = {makers[key]: count for key, count in seen.counts.items() if key in makers}
    return {
        layer: norm
        for layer, norm in pairs.items()
        if calls[layer] == calls[norm] == uses.get(layer) == 1
    }


class _Uses(TorchFunctionMode):
    """Counts in how many calls each tensor is an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()
        self.kept: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if tensors_in(result):  # not `x.shape`
            arguments = tensors_in((args, kwargs))
            self.counts.update({id(x) for x in arguments})
            self.kept += arguments
        return result


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
