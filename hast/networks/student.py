"""The student: a copy of the teacher whose weights and activations are quantized in place."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_map_only

from hast.config.spec import ModelSpec
from hast.config.targets import TARGETS
from hast.engine.runtime import device_of
from hast.errors import InputError
from hast.math.quantization import MAX_BITS
from hast.networks.call_sites import (
    OUTPUT_SITE,
    CallSites,
    attach,
    attach_behind,
    detach,
    restart_call_counts,
)
from hast.networks.fingerprint import fingerprint
from hast.networks.hooks import replaced_forwards
from hast.networks.outputs import outputs_to_quantize
from hast.networks.plan import QuantizationPlan, channel_axis, probe_layers
from hast.networks.provenance import remember, spec_and_plan
from hast.networks.quantizers import (
    WIDE_BITS,
    ActivationQuantizer,
    LearnedActivationQuantizer,
    LearnedWeightQuantizer,
    Mode,
    WeightQuantizer,
)


def prepare_student(
    teacher: nn.Module, spec: ModelSpec, plan: QuantizationPlan, *, range_momentum: float = 0.9
) -> nn.Module:
    """Copy `teacher` and attach quantizers. The activation ranges are not set yet.

    The student is in eval mode and has to stay in it: its BatchNorm statistics belong to data that
    nobody has any more.

    Args:
        teacher: full-precision network.
        spec: gives the input shape of the pass that counts calls.
        plan: bits of every module, see `plan_quantization`.
        range_momentum: see `ActivationQuantizer`.

    Raises:
        InputError: a layer of the plan has no weight of its own.
    """
    student = copy.deepcopy(teacher).eval().requires_grad_(True)
    calls = probe_layers(student, spec, (nn.Module,))
    learned = plan.quantizer == "learned"
    rules = TARGETS[plan.target]
    kind = LearnedActivationQuantizer if learned else ActivationQuantizer

    def sites(bits: int, count: int) -> CallSites:
        symmetric = rules.is_symmetric(weight=False, bits=bits)
        return CallSites([kind(bits, range_momentum, symmetric=symmetric) for _ in range(count)])

    outputs = plan.outputs
    if outputs is None:
        outputs = outputs_to_quantize(student, spec, plan)
        plan = plan.model_copy(update={"outputs": outputs})
    read_codes = {reader for readers in outputs.values() for reader in readers}
    for name, bits in plan.activations.items():
        if name not in read_codes:
            attach(student.get_submodule(name), sites(bits, calls[name]), plan.placement)
    for name in outputs:
        attach_behind(student.get_submodule(name), sites(MAX_BITS, 1))
    quantizers_of: dict[int, nn.Module] = {}  # one for a weight that several layers share
    for name, bits in plan.weights.items():
        module = student.get_submodule(name)
        weight = module._parameters.get("weight")
        if weight is None:
            raise InputError(
                f"{name} computes its weight itself (weight_norm, spectral_norm, ...); remove that"
                " from the network first, or name the layer in `skip`"
            )
        if id(weight) not in quantizers_of:
            make = partial(LearnedWeightQuantizer, weight) if learned else WeightQuantizer
            symmetric = rules.is_symmetric(weight=True, bits=bits)
            quantizers_of[id(weight)] = make(bits, channel_axis(module), symmetric=symmetric)
        parametrize.register_parametrization(module, "weight", quantizers_of[id(weight)])
    student.to(device_of(teacher))  # the quantizers' own numbers
    student.register_forward_pre_hook(restart_call_counts)
    remember(student, spec=spec, plan=plan, teacher=fingerprint(teacher.state_dict()))
    return student


def shared_quantizers(student: nn.Module) -> dict[str, CallSites]:
    """By layer, the quantizers that stand where its input is made; see `hast.networks.outputs`."""
    _, plan = spec_and_plan(student)
    return {
        layer: getattr(student.get_submodule(name), OUTPUT_SITE)
        for name, layers in (plan.outputs or {}).items()
        for layer in layers
    }


def remove_quantizers(student: nn.Module) -> nn.Module:
    """Take all quantizers off in place: what remains is the teacher's architecture with the
    student's unquantized weights."""
    for module in list(student.modules()):
        if parametrize.is_parametrized(module, "weight"):
            # torch's own removal would delete `weight` from the class that deep copies share.
            original = module.get_parameter("parametrizations.weight.original")
            del module.parametrizations
            module.__class__ = type(module).__bases__[0]
            module.register_parameter("weight", original)
        detach(module)
    remember(student, plan=None)
    return student


def wide_layers_in_fp32(student: nn.Module) -> AbstractContextManager[None]:
    """Let layers whose weights or inputs have `WIDE_BITS` or more compute in fp32 under autocast.

    With quantizers behind ReLUs it is not known which layer reads which, so one wide quantizer is
    reason enough for all layers.
    """
    _, plan = spec_and_plan(student)
    wide = {name for name, bits in plan.weights.items() if bits >= WIDE_BITS}
    read = {name for name, bits in plan.activations.items() if bits >= WIDE_BITS}
    wide |= read if plan.placement == "inputs" else plan.weights.keys() if read else set()
    device = device_of(student).type
    layers = [student.get_submodule(name) for name in sorted(wide)]
    return replaced_forwards({m: partial(_without_autocast, m.forward, device) for m in layers})


def _without_autocast(
    forward: Callable[..., Tensor], device: str, *args: Any, **kwargs: Any
) -> Tensor:
    inputs, named = tree_map_only(Tensor, Tensor.float, (args, kwargs))
    with torch.autocast(device, enabled=False):
        return forward(*inputs, **named)


def set_mode(student: nn.Module, mode: Mode) -> None:
    """Let all activation quantizers observe or quantize.

    Raises:
        InputError: a quantizer shall quantize but has never observed anything.
    """
    for name, module in student.named_modules():
        if isinstance(module, ActivationQuantizer):
            if mode == "quantize" and module.mode == "observe":
                module.freeze_range()
            if mode == "quantize" and module.scale.isnan():
                raise InputError(f"{name} has no activation range; calibrate the student first")
            module.mode = mode
