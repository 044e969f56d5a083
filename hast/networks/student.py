"""The student: a copy of the teacher whose weights and activations are quantized in place."""

import copy
from collections import Counter
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.utils import parametrize

from hast.bit_width import BitWidth
from hast.errors import InputError
from hast.networks.hooks import removed_at_exit
from hast.networks.quantizers import (
    ActivationQuantizer,
    CallSites,
    Mode,
    WeightQuantizer,
    attach_to_input,
    attach_to_output,
    restart_call_counts_at,
)
from hast.networks.spec import ModelSpec
from hast.runtime import device_of

Placement = Literal["inputs", "relu"]
WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_PLACES: dict[Placement, tuple[type[nn.Module], ...]] = {
    "inputs": WEIGHTED,
    "relu": (nn.ReLU, nn.ReLU6),
}


def prepare_student(
    teacher: nn.Module,
    spec: ModelSpec,
    bits: BitWidth,
    *,
    placement: Placement = "inputs",
    range_momentum: float = 0.9,
) -> nn.Module:
    """Copy `teacher` and attach quantizers. The activation ranges are not set yet.

    BatchNorm stays in eval mode for good: its statistics belong to the data that nobody has.

    Args:
        teacher: full-precision network.
        spec: gives the input shape of the pass that counts calls.
        bits: code widths of weights and activations.
        placement: `inputs` quantizes the input of every Conv and Linear, `relu` the output of
            every ReLU and ReLU6 module (the paper).
        range_momentum: see `ActivationQuantizer`.

    Raises:
        InputError: the placement finds no module.
    """
    student = copy.deepcopy(teacher).eval().requires_grad_(True)
    calls = _count_calls(student, spec, _PLACES[placement])
    if not calls:
        raise InputError(
            f"placement '{placement}' finds no module to quantize in {type(teacher).__name__};"
            " use placement 'inputs'"
        )
    attach = attach_to_input if placement == "inputs" else attach_to_output
    for module, times in calls.items():
        quantizers = [ActivationQuantizer(bits.act_bits, range_momentum) for _ in range(times)]
        attach(module, CallSites(quantizers))
    for module in list(student.modules()):
        if isinstance(module, WEIGHTED):
            quantizer = WeightQuantizer(bits.weight_bits)
            parametrize.register_parametrization(module, "weight", quantizer)
    restart_call_counts_at(student)
    return student


def set_mode(student: nn.Module, mode: Mode) -> None:
    """Let all activation quantizers observe or quantize.

    Raises:
        InputError: a quantizer shall quantize but has never observed anything.
    """
    for name, module in student.named_modules():
        if isinstance(module, ActivationQuantizer):
            if mode == "quantize" and module.minimum.isnan():
                raise InputError(f"{name} has no activation range; calibrate the student first")
            module.mode = mode


def _count_calls(
    network: nn.Module, spec: ModelSpec, kinds: tuple[type[nn.Module], ...]
) -> Counter[nn.Module]:
    calls: Counter[nn.Module] = Counter()

    def count(module: nn.Module, _args: tuple[Any, ...]) -> None:
        calls[module] += 1

    modules = [m for m in network.modules() if isinstance(m, kinds)]
    with removed_at_exit([m.register_forward_pre_hook(count) for m in modules]), torch.no_grad():
        network(torch.zeros(1, *spec.input_shape, device=device_of(network)))
    return calls
