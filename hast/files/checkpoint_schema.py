"""The card of a packed checkpoint, in the words of Hugging Face's `quantization_config`.

A scheme says how codes are made; a group says which modules have it. Targets are module names or
class names, and a name is stronger than a class, as in compressed-tensors.
"""

from collections import Counter
from typing import Any, Literal

from pydantic import model_validator
from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from hast.config.layers import Bits
from hast.config.section import Section
from hast.config.spec import ModelSpec
from hast.config.targets import TARGETS, Target
from hast.errors import InputError
from hast.networks.plan import QuantizationPlan


class Scheme(Section):
    """One uniform affine quantizer with unsigned codes 0 ... 2**num_bits - 1. Symmetric, its zero
    point is near 2**(num_bits - 1)."""

    num_bits: Bits
    type: Literal["int"] = "int"
    symmetric: bool = False
    strategy: Literal["channel", "tensor"]
    dynamic: Literal[False] = False


class Group(Section):
    """Modules that are quantized in the same way."""

    targets: tuple[str, ...]
    weights: Scheme | None = None
    input_activations: Scheme | None = None
    output_activations: Scheme | None = None


class QuantizationConfig(Section):
    """Which modules are quantized, and how.

    Attributes:
        format: `bit-packed`: codes without gaps, see `hast.math.packing`.
        config_groups: by any name.
        ignore: what stays in full precision although a group names its class, or as it was asked
            for.
        target: what will run it, see `hast.config.targets`.
        outputs: modules whose output has a quantizer of 8 bits for the target's sake, each with the
            layers that read its codes and have no quantizer of their own.
    """

    quant_method: Literal["hast"] = "hast"
    format: Literal["bit-packed"] = "bit-packed"
    config_groups: dict[str, Group]
    ignore: tuple[str, ...] = ()
    target: Target = "generic"
    outputs: dict[str, tuple[str, ...]] | None = None


class CheckpointCard(Section):
    """What rebuilds the network around the tensors.

    Attributes:
        source, source_args: see `hast.networks.sources`; None where only the user can build it.
        teacher: fingerprint of the network that was quantized.
        batch_norm: `folded` where scales and biases have taken it in.
        layout: hash of the names, shapes and bits of all tensors in their order.
        sha256: of the file with the tensors.
        libraries: versions that wrote it.
    """

    format: Literal["hast-checkpoint"]
    version: Literal[1]
    source: str | None = None
    source_args: dict[str, Any] = {}
    spec: ModelSpec
    teacher: str | None = None
    batch_norm: Literal["kept", "folded"] = "kept"
    layout: str
    sha256: str
    libraries: dict[str, str] = {}
    quantization_config: QuantizationConfig

    @model_validator(mode="before")
    @classmethod
    def _is_known(cls, card: Any) -> Any:
        if not isinstance(card, dict) or card.get("format") != "hast-checkpoint":
            raise ValueError("not the card of a packed checkpoint; name another folder")
        if card.get("version") != 1:
            raise ValueError(
                f"has version {card.get('version')!r}, this hast reads version 1; install the one"
                " that wrote it"
            )
        return card


def describe_plan(network: nn.Module, plan: QuantizationPlan) -> QuantizationConfig:
    """A plan as groups: what most modules of a class have stands under the class's name.

    A class that has the name of a module is no target, for a target would mean both.
    """
    position = "input_activations" if plan.placement == "inputs" else "output_activations"
    kinds = {name: _class_of(module) for name, module in network.named_modules()}
    schemes = {
        name: Group(
            targets=(),
            weights=_scheme(plan.weights.get(name), "channel", plan.target),
            **{position: _scheme(plan.activations.get(name), "tensor", plan.target)},
        )
        for name in kinds
        if name in plan.weights or name in plan.activations
    }
    counted: dict[str, Counter[Group]] = {}
    for name, scheme in schemes.items():
        counted.setdefault(kinds[name], Counter())[scheme] += 1
    usual = {
        kind: counts.most_common(1)[0][0] for kind, counts in counted.items() if kind not in kinds
    }
    unusual = {name: s for name, s in schemes.items() if s != usual.get(kinds[name])}
    targets: dict[Group, list[str]] = {}
    for target, scheme in [*usual.items(), *unusual.items()]:
        targets.setdefault(scheme, []).append(target)
    groups = {
        f"group_{i}": scheme.model_copy(update={"targets": tuple(names)})
        for i, (scheme, names) in enumerate(targets.items())
    }
    named = {target for group in targets.values() for target in group}
    ignore = [name for name, kind in kinds.items() if kind in named and name not in schemes]
    ignore += [name for name in plan.skipped if name not in ignore]
    outputs = plan.outputs or None
    return QuantizationConfig(
        config_groups=groups, ignore=tuple(ignore), target=plan.target, outputs=outputs
    )


def plan_of(network: nn.Module, config: QuantizationConfig) -> QuantizationPlan:
    """The plan that `describe_plan` wrote down, for the rebuilt network."""
    by_target = {target: g for g in config.config_groups.values() for target in g.targets}
    found = {
        name: by_target.get(name, by_target.get(_class_of(module)))
        for name, module in network.named_modules()
    }
    for module, readers in (config.outputs or {}).items():
        for name in {module, *readers} - found.keys():
            raise InputError(f"outputs names {name}, which the network has not; fetch it again")
    groups = {name: g for name, g in found.items() if g and name not in config.ignore}
    for name, group in groups.items():
        _check_symmetry(name, group, config.target)
    activations = {n: g.input_activations or g.output_activations for n, g in groups.items()}
    return QuantizationPlan(
        placement="relu" if any(g.output_activations for g in groups.values()) else "inputs",
        target=config.target,
        weights={name: g.weights.num_bits for name, g in groups.items() if g.weights},
        activations={name: scheme.num_bits for name, scheme in activations.items() if scheme},
        skipped=config.ignore,
        outputs=config.outputs or {},
    )


def _check_symmetry(name: str, group: Group, target: Target) -> None:
    for scheme in (group.weights, group.input_activations, group.output_activations):
        if scheme is not None and scheme != _scheme(scheme.num_bits, scheme.strategy, target):
            raise InputError(
                f"{name}: symmetric must be {not scheme.symmetric} at {scheme.num_bits} bits for"
                f" target '{target}', got {scheme.symmetric}; fetch the checkpoint again"
            )


def _class_of(module: nn.Module) -> str:
    return str(type_before_parametrizations(module).__name__)


def _scheme(
    bits: int | None, strategy: Literal["channel", "tensor"], target: Target
) -> Scheme | None:
    if bits is None:
        return None
    symmetric = TARGETS[target].is_symmetric(weight=strategy == "channel", bits=bits)
    return Scheme(num_bits=bits, strategy=strategy, symmetric=symmetric)
