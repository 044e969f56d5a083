"""A student computed with integers: the proof that it is an integer network.

Every Conv and Linear takes codes, adds products of codes in int32, and only then becomes a real
number: `scale_x * scale_w * sum (x_int - zero_x) * (w_int - zero_w) + bias`. The next quantizer
rounds that to codes again. What lies between (BatchNorm, ReLU, additions, pooling) stays in
floating point, as it does in the runtimes that quantize and dequantize around it.

Slow and short on purpose; use an exported network where speed counts.
"""

import copy
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from hast.math.quantization import QParams, dequantize, quantize
from hast.networks.codes import Codes, activation_quantizers, weight_codes
from hast.networks.plan import TRANSPOSED, WEIGHTED
from hast.networks.quantizers import ActivationQuantizer

_GRID_KEEPING = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.Identity, nn.Dropout, nn.Flatten)


class IntegerNetwork(NamedTuple):
    """A student whose layers compute with integers.

    `integer_layers` of `layers` quantized Conv and Linear modules did so in the latest pass; the
    others saw an input that is not on the grid of a quantizer, as the first layer does where only
    the outputs of ReLUs are quantized.
    """

    network: nn.Module
    done: dict[str, bool]

    def __call__(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.network(images)
        return logits

    @property
    def layers(self) -> int:
        return len(self.done)

    @property
    def integer_layers(self) -> int:
        return sum(self.done.values())


def integer_network(student: nn.Module) -> IntegerNetwork:
    """Copy a student and let its quantized Conv and Linear layers compute with integers.

    Args:
        student: of `hast.load` or `hast.quantize`.
    """
    network = copy.deepcopy(student).cpu().eval().requires_grad_(False)
    grid = _Grid()
    network.register_forward_pre_hook(lambda *_: grid.clear())
    for quantizer in activation_quantizers(network):
        quantizer.register_forward_hook(grid.note)
    for module in network.modules():
        if isinstance(module, _GRID_KEEPING):
            module.register_forward_hook(grid.pass_on)
    done = {}
    for name, codes in weight_codes(network).items():
        layer: Any = network.get_submodule(name)
        done[name] = False
        report = partial(done.__setitem__, name)
        layer.forward = partial(_forward, layer, layer.forward, codes, grid, report)
    return IntegerNetwork(network, done)


class _Grid:
    """Remembers which tensors hold values of which quantizer's grid."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tensor, QParams]] = {}

    def clear(self) -> None:
        self._known.clear()

    def note(self, quantizer: nn.Module, _args: Any, output: Tensor) -> None:
        assert isinstance(quantizer, ActivationQuantizer)
        # The tensor is kept, so that nothing else gets its identity.
        self._known[id(output)] = (output, quantizer.qparams)

    def pass_on(self, _module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        qparams = self.find(args[0])
        if qparams is not None:
            self._known[id(output)] = (output, qparams)

    def find(self, x: Tensor) -> QParams | None:
        return self._known[id(x)][1] if id(x) in self._known else None


def _forward(
    layer: Any,
    original: Callable[[Tensor], Tensor],
    weight: Codes,
    grid: _Grid,
    report: Callable[[bool], None],
    *args: Tensor,
    **kwargs: Tensor,
) -> Tensor:
    (x,) = (*args, *kwargs.values())
    qparams = grid.find(x) if _is_plain(layer) else None
    codes = None if qparams is None else quantize(x, qparams)
    if qparams is None or codes is None or not torch.equal(dequantize(codes, qparams), x):
        report(False)
        return original(x)
    report(True)
    integers = (codes - qparams.zero_point).to(torch.int32)
    weights = (weight.codes - weight.qparams.zero_point).to(torch.int32)
    linear = isinstance(layer, nn.Linear)
    total = integers @ weights.t() if linear else _convolve(integers, weights, layer)
    shape = (-1,) if linear else (-1, *[1] * (weights.ndim - 2))
    result = total * (weight.qparams.scale.view(shape) * qparams.scale)
    return result if layer.bias is None else result + layer.bias.view(shape)


def _is_plain(layer: nn.Module) -> bool:
    """Subclasses may do more in their own forward, such as pad or standardise; transposed
    convolutions are left out."""
    plain = type_before_parametrizations(layer) in {*WEIGHTED} - {*TRANSPOSED}
    return plain and getattr(layer, "padding_mode", "zeros") == "zeros"


def _convolve(x: Tensor, weight: Tensor, layer: Any) -> Tensor:
    """Cross-correlation in int32: x (N, C_in, *size), weight (C_out, C_in / groups, *kernel)."""
    assert x.dtype == weight.dtype == torch.int32
    kernel = weight.shape[2:]
    # A padded zero is the number zero: quantizers have a code for it.
    x = F.pad(x, _padding(layer, kernel))
    for d, (size, stride, dilation) in enumerate(
        zip(kernel, layer.stride, layer.dilation, strict=True)
    ):
        x = x.unfold(2 + d, (size - 1) * dilation + 1, stride)[..., ::dilation]
    spatial, groups = len(kernel), layer.groups
    # (N, C_in, *out, *kernel) -> (N, groups, positions, C_in / groups * kernel)
    x = x.unflatten(1, (groups, -1))
    out = x.shape[3 : 3 + spatial]
    order = (0, 1, *range(3, 3 + spatial), 2, *range(3 + spatial, 3 + 2 * spatial))
    columns = x.permute(order).reshape(x.shape[0], groups, out.numel(), -1)
    rows = weight.reshape(groups, weight.shape[0] // groups, -1)
    total = columns @ rows.transpose(1, 2)  # (N, groups, positions, C_out / groups), int32
    return total.transpose(2, 3).reshape(x.shape[0], -1, *out)


def _padding(layer: Any, kernel: torch.Size) -> list[int]:
    """Zeros before and after each dimension, as `F.pad` wants them: the last dimension first."""
    if layer.padding == "same":
        totals = [d * (k - 1) for d, k in zip(layer.dilation, kernel, strict=True)]
        sides = [(total // 2, total - total // 2) for total in totals]
    elif layer.padding == "valid":
        sides = [(0, 0)] * len(kernel)
    else:
        sides = [(p, p) for p in layer.padding]
    return list(itertools.chain.from_iterable(reversed(sides)))
