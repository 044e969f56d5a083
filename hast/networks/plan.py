"""Which layers are quantized, and to how many bits.

Rules, each stronger than the one before: the bit width of the run, an allocation, 8 bits (or
another width) for the first and the last layer, 8 bits for the image, overrides in their order, and
layers to skip.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hast.config.bit_width import FULL_PRECISION_BITS, BitWidth
from hast.config.layers import Bits, Placement, PlanConfig, QuantizerKind
from hast.config.section import Section
from hast.config.spec import ModelSpec
from hast.config.targets import TARGETS, Target
from hast.engine.runtime import probe_images
from hast.errors import InputError
from hast.math.quantization import MAX_BITS
from hast.networks.hooks import removed_at_exit
from hast.networks.products import products

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, *TRANSPOSED)
ACTIVATED: dict[Placement, tuple[type[nn.Module], ...]] = {
    "inputs": WEIGHTED,
    "relu": (nn.ReLU, nn.ReLU6),
}


class QuantizationPlan(Section):
    """Bits of every quantized module, by module name in the order in which the modules run."""

    placement: Placement
    quantizer: QuantizerKind = "minmax"
    target: Target = "generic"
    weights: dict[str, Bits]
    activations: dict[str, Bits]
    skipped: tuple[str, ...] = ()  # what the rules leave in full precision
    # See `hast.networks.outputs`; None where nobody has looked yet.
    outputs: dict[str, tuple[str, ...]] | None = None


def plan_quantization(
    network: nn.Module,
    spec: ModelSpec,
    bits: BitWidth,
    config: PlanConfig,
    allocation: Mapping[str, int] | None = None,
) -> QuantizationPlan:
    """Resolve the rules for the modules that a forward pass really calls.

    Args:
        network: in eval mode.
        spec: gives the input shape of the probe.
        bits: the run's bit width.
        config: the rules.
        allocation: weight bits by layer name, see `hast.math.allocation`.

    Raises:
        InputError: the placement finds nothing, a pattern matches nothing, an allocated layer is
            not there, layers that share a weight would have different widths, or the target has no
            kernels for one.
    """
    weighted, activated = _quantizable(network, spec, bits, config.placement)
    unknown = set(allocation or {}) - set(weighted)
    if unknown:
        raise InputError(f"allocated layer {min(unknown)} is not in {type(network).__name__}")
    weights = dict.fromkeys(weighted, bits.weight_bits) | dict(allocation or {})
    activations = dict.fromkeys(activated, bits.act_bits)
    if config.first_last_bits != "width":
        for name in (weighted[0], weighted[-1]):
            weights[name] = config.first_last_bits
            if name in activations:
                activations[name] = config.first_last_bits
    if config.image_bits != "width" and weighted[0] in activations:
        activations[weighted[0]] = config.image_bits
    for override in config.overrides:
        for table, width in ((weights, override.weight_bits), (activations, override.act_bits)):
            if width is not None:
                matched = _matching(override.match, set(table), "overrides")
                table.update(dict.fromkeys(matched, width))
    skipped = _skipped(network, spec, [*weighted, *activated], config.skip)
    for name in skipped:
        weights.pop(name, None)
        activations.pop(name, None)
    _check_shared(network, weighted, weights)
    check_target(config.target, activations)
    how = config.model_dump(include={"placement", "quantizer", "target"})
    return QuantizationPlan(weights=weights, activations=activations, skipped=skipped, **how)


def _quantizable(
    network: nn.Module, spec: ModelSpec, bits: BitWidth, placement: Placement
) -> tuple[list[str], list[str]]:
    """Modules with weights and with activations to quantize, in running order."""
    weighted = list(probe_layers(network, spec, WEIGHTED))
    if not weighted:
        raise InputError(f"{type(network).__name__} calls no Conv or Linear module to quantize")
    if bits.weights_only:
        return weighted, []
    activated = list(probe_layers(network, spec, ACTIVATED[placement]))
    if not activated:
        raise InputError(
            f"placement '{placement}' finds no module to quantize in"
            f" {type(network).__name__}; use placement 'inputs'"
        )
    return weighted, activated


def fixed_layers(names: Sequence[str], config: PlanConfig) -> set[str]:
    """Layers whose weight bits an allocation cannot change.

    Args:
        names: of all weighted layers, in the order in which they run.
        config: the rules.
    """
    fixed = {names[0], names[-1]} if config.first_last_bits != "width" else set()
    patterns = [*config.skip, *(o.match for o in config.overrides if o.weight_bits is not None)]
    return fixed | {n for n in names if any(fnmatchcase(n, p) for p in patterns)}


def probe_layers(
    network: nn.Module, spec: ModelSpec, kinds: tuple[type[nn.Module], ...]
) -> Counter[str]:
    """How often one forward pass calls the modules of some kinds, by name in calling order."""
    calls: Counter[str] = Counter()

    def count(name: str, *_: Any) -> None:
        calls[name] += 1

    named = [(n, m) for n, m in network.named_modules() if isinstance(m, kinds)]
    handles = [m.register_forward_hook(partial(count, n)) for n, m in named]
    with removed_at_exit(handles), torch.no_grad():
        network(probe_images(network, spec.input_shape))
    return calls


def forward_macs(network: nn.Module, spec: ModelSpec) -> int:
    """Multiply-adds of one forward pass of one image."""
    return sum(product.macs for product in products(network, spec))


def weight_of(network: nn.Module, name: str) -> Tensor:
    """The weight of a Conv or Linear by its name."""
    weight = network.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight


def channel_axis(module: nn.Module) -> int:
    """The dimension of a module's weight that has one scale for each entry.

    Scales must not differ among the products that one output sums up. A transposed convolution
    holds (C_in, C_out / groups, ...), so that is the second dimension, shared by the groups; where
    every input channel is a group of its own, the first one tells more outputs apart.
    """
    if not isinstance(module, TRANSPOSED):
        return 0
    return 0 if module.groups == module.in_channels > 1 else 1


def _skipped(
    network: nn.Module, spec: ModelSpec, names: Sequence[str], patterns: Sequence[str]
) -> tuple[str, ...]:
    """What the patterns match of the modules `names` and of what is multiplied outside of them."""
    if not patterns:
        return ()
    known = dict.fromkeys([*names, *(product.name for product in products(network, spec))])
    found = {name for pattern in patterns for name in _matching(pattern, set(known), "skip")}
    return tuple(name for name in known if name in found)


def _check_shared(network: nn.Module, names: Sequence[str], weights: Mapping[str, int]) -> None:
    """Layers that share one weight have one quantizer."""
    first: dict[int, str] = {}
    for name in names:
        other = first.setdefault(id(weight_of(network, name)), name)
        ours, theirs = (weights.get(n, FULL_PRECISION_BITS) for n in (name, other))
        if ours != theirs:
            raise InputError(
                f"{other} and {name} share one weight, which can have one width, but the rules give"
                f" {theirs} and {ours} bits; set the same for both in `overrides`, or `skip` both"
            )


def check_target(target: Target, activations: Mapping[str, int]) -> None:
    """Raises:
    InputError: the target has no integer kernels for one of these widths.
    """
    if TARGETS[target].symmetric_activations:
        for name, bits in activations.items():
            if bits != MAX_BITS:
                raise InputError(
                    f"{name}: target '{target}' has integer kernels for activations of {MAX_BITS}"
                    f" bits, got {bits}; take a width that ends in a{MAX_BITS}, or skip the layer"
                )


def _matching(pattern: str, names: set[str], rule: str) -> list[str]:
    found = sorted(name for name in names if fnmatchcase(name, pattern))
    if not found:
        raise InputError(f"{rule}: {pattern!r} matches nothing that is quantized")
    return found
