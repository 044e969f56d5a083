"""What quantization costs in every layer of a student, each looked at alone.

    SQNR = 10 log10(sum signal^2 / sum (signal - quantized)^2)    in decibel

A bit more halves the rounding error and so gives 6 dB. Far below what its width promises lies a
layer whose range is wrong: one outlier that widens it, or a clipping that cuts too much.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hast.engine.engine import Images
from hast.engine.runtime import device_of, loop
from hast.networks.call_sites import SITE, restart_call_counts
from hast.networks.hooks import removed_at_exit, with_first
from hast.networks.student import shared_quantizers

_BATCH_SIZE = 64


class LayerError(NamedTuple):
    """A quantized module. Ratios of signal to error are in decibel: higher is better."""

    layer: str
    act_minimum: float  # of the quantized activations' range; NaN where none is quantized here
    act_maximum: float
    weight_sqnr: float  # weight to its rounding error; NaN without a quantized weight
    # The teacher's output to what this layer alone makes of the same input, and the quantizer that
    # a target may ask for behind it.
    output_sqnr: float


@loop
def measure_layer_errors(
    teacher: nn.Module, student: nn.Module, images: Images
) -> Iterator[LayerError]:
    """Give each quantized layer the input that the teacher's layer has, and compare the outputs.

    So an error is the layer's own, not what earlier layers did to its input. Fine-tuning lets
    layers make up for each other, which counts as an error here.

    Args:
        teacher: frozen, eval mode.
        student: of this teacher, quantizing, on the same device.
        images: (N, C, H, W), normalized pixels.
    """
    names = [n for n, m in student.named_modules() if _is_quantized(m)]
    shared = shared_quantizers(student)
    signal, noise = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)

    def compare(name: str, _module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        if name in shared:
            args, kwargs = with_first(args, kwargs, shared[name])
        answer = student.get_submodule(name)(*args, **kwargs)
        signal[name] += output.double().square().sum().item()
        noise[name] += (output - answer).double().square().sum().item()

    hooked = [(partial(compare, name), teacher.get_submodule(name)) for name in names]
    with removed_at_exit(m.register_forward_hook(hook, with_kwargs=True) for hook, m in hooked):
        for batch in images.split(_BATCH_SIZE):
            restart_call_counts(student)
            with torch.no_grad():
                teacher(batch.to(device_of(teacher)))
    for name in names:
        module = student.get_submodule(name)
        low, high = _activation_range(shared.get(name, getattr(module, SITE, ())))
        yield LayerError(name, low, high, _weight_sqnr(module), _decibel(signal[name], noise[name]))


def worst_layers(errors: Mapping[str, float], *, share: float = 0.1) -> set[str]:
    """The layers with the lowest ratios, a tenth of all and at least one; NaN is not among them."""
    known = sorted((ratio, name) for name, ratio in errors.items() if ratio == ratio)
    return {name for _, name in known[: max(1, round(share * len(known)))]}


def _is_quantized(module: nn.Module) -> bool:
    return hasattr(module, SITE) or parametrize.is_parametrized(module, "weight")


def _activation_range(sites: Iterable[Any]) -> tuple[float, float]:
    """Of all quantizers at a module's call sites."""
    known = [quantizer.qparams for quantizer in sites]
    lows = [(-q.zero_point * q.scale).item() for q in known]
    highs = [((q.quant_max - q.zero_point) * q.scale).item() for q in known]
    return min(lows, default=math.nan), max(highs, default=math.nan)


def _weight_sqnr(module: Any) -> float:
    if not parametrize.is_parametrized(module, "weight"):
        return math.nan
    with torch.no_grad():
        weight = module.parametrizations.weight.original.double()
        error = weight - module.weight.double()
    return _decibel(weight.square().sum().item(), error.square().sum().item())


def _decibel(signal: float, noise: float) -> float:
    if not signal or not noise:
        return math.nan
    return 10.0 * math.log10(signal / noise)
