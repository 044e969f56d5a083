"""How much of a network a plan really makes low-bit.

A multiply-add is low-bit if both of its operands are quantized. What a network multiplies outside
its Conv and Linear modules is not, nor is what follows an activation that the placement passes by.
"""

import copy
from collections import Counter
from math import prod
from typing import NamedTuple

from torch import nn

from hast.config.bit_width import FULL_PRECISION_BITS, BitWidth
from hast.config.section import Section
from hast.config.spec import ModelSpec
from hast.errors import warn
from hast.networks.plan import ACTIVATED, QuantizationPlan
from hast.networks.products import Product, State, products, weight_name, worst
from hast.networks.provenance import spec_and_plan
from hast.networks.student import remove_quantizers

ENOUGH = 0.95
_NAMED = 5


class Coverage(Section):
    """What of a network is low-bit; shares are in [0, 1].

    Attributes:
        weights: share of the elements of all weights that are multiplied, shared ones once.
        multiply_adds: share of those with two quantized operands.
        weights_wanted, multiply_adds_wanted: the same among what `skip` does not name.
        full_precision: what is not fully low-bit although `skip` does not name it, in running
            order: layers, parameters, and modules that multiply activations with each other.
        skipped: what `skip` names.
    """

    weights: float
    multiply_adds: float
    weights_wanted: float
    multiply_adds_wanted: float
    full_precision: tuple[str, ...]
    skipped: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.weights:.1%} of the weights and {self.multiply_adds:.1%} of the multiply-adds"
            " are low-bit"
        )


class LayerBits(NamedTuple):
    """A row of the resolved table: a layer, or what is multiplied outside of layers."""

    layer: str
    shape: str  # of the weight; empty where activations are multiplied with each other
    weight_bits: int
    act_bits: int | None  # of the input; None where it is not quantized here
    parameters: int
    size_share: float  # of all weight bits, in [0, 1]
    mac_share: float  # of all multiply-adds, in [0, 1]
    low_bit: float  # share of the row's multiply-adds with two quantized operands, in [0, 1]


def coverage(student: nn.Module) -> Coverage:
    """How much of a student is low-bit.

    Args:
        student: from `hast.quantize` or `hast.load`.

    Raises:
        InputError: the network was not quantized here.
    """
    spec, plan = spec_and_plan(student)
    return plan_coverage(remove_quantizers(copy.deepcopy(student)), spec, plan)


def plan_coverage(network: nn.Module, spec: ModelSpec, plan: QuantizationPlan) -> Coverage:
    """Shares of a network that a plan makes low-bit.

    Args:
        network: in full precision and in eval mode.
        spec: gives the input shape of the pass that looks.
        plan: see `plan_quantization`.
    """
    seen = _products(network, spec, plan)
    sizes: dict[tuple[str, ...], int] = {}
    states: dict[tuple[str, ...], State] = {}
    macs: Counter[State] = Counter()
    for product in seen:
        macs[_state(product, plan)] += product.macs
        if product.weight is not None:
            key = product.weight or (product.name,)
            sizes[key] = _elements(product)
            states[key] = worst((states.get(key, "quantized"), _weight_state(product, plan)))
    weights: Counter[State] = Counter()
    for key, size in sizes.items():
        weights[states[key]] += size
    return Coverage(
        weights=_share(weights),
        multiply_adds=_share(macs),
        weights_wanted=_share(weights, without="skipped"),
        multiply_adds_wanted=_share(macs, without="skipped"),
        full_precision=tuple(dict.fromkeys(p.name for p in seen if _state(p, plan) == "full")),
        skipped=plan.skipped,
    )


def warn_of_full_precision(found: Coverage, width: BitWidth) -> None:
    """Warn if a share of what `skip` does not name is below `ENOUGH`."""
    shares = [found.weights_wanted]
    if not width.weights_only:
        shares.append(found.multiply_adds_wanted)
    if min(shares) >= ENOUGH:
        return
    names, more = found.full_precision[:_NAMED], len(found.full_precision) - _NAMED
    beside = " beside what `skip` names" if found.skipped else ""
    warn(
        f"{width} covers {found.weights_wanted:.1%} of the weights and"
        f" {found.multiply_adds_wanted:.1%} of the multiply-adds{beside}; not low-bit:"
        f" {', '.join(names)}{f' and {more} more' if more > 0 else ''}. Use placement 'inputs',"
        " make them nn.Conv or nn.Linear modules, or name them in `skip`"
    )


def layer_table(network: nn.Module, spec: ModelSpec, plan: QuantizationPlan) -> list[LayerBits]:
    """All that is multiplied, with its bits and its share of size and work, in running order."""
    first: dict[str, Product] = {}
    macs: dict[str, Counter[State]] = {}
    for product in _products(network, spec, plan):
        if first.setdefault(product.name, product).weight is None:
            first[product.name] = product
        macs.setdefault(product.name, Counter())[_state(product, plan)] += product.macs
    bits = {name: _weight_bits(product, plan) for name, product in first.items()}
    size = sum(_elements(product) * bits[name] for name, product in first.items())
    work = sum(map(Counter.total, macs.values()))
    return [
        LayerBits(
            layer=name,
            shape="x".join(map(str, product.shape)),
            weight_bits=bits[name],
            act_bits=plan.activations.get(name),
            parameters=_elements(product),
            size_share=_elements(product) * bits[name] / size,
            mac_share=macs[name].total() / work,
            low_bit=_share(macs[name]),
        )
        for name, product in first.items()
    ]


def _products(network: nn.Module, spec: ModelSpec, plan: QuantizationPlan) -> list[Product]:
    """The products of a pass in which quantizers would be where the plan has them."""
    modules = dict(network.named_modules())
    sites: dict[str, State] = {
        name: "skipped"
        for name in plan.skipped
        if isinstance(modules.get(name), ACTIVATED[plan.placement])
    }
    sites |= dict.fromkeys(plan.activations, "quantized")
    return products(network, spec, sites=sites, placement=plan.placement)


def _state(product: Product, plan: QuantizationPlan) -> State:
    """Whether a product is low-bit: `quantized` means that both operands are."""
    if product.name in plan.skipped:
        return "skipped"
    if product.weight is None:
        return product.activation
    return worst((product.activation, _weight_state(product, plan)))


def _weight_state(product: Product, plan: QuantizationPlan) -> State:
    if product.name in plan.skipped:
        return "skipped"
    return "full" if _weight_bits(product, plan) == FULL_PRECISION_BITS else "quantized"


def _weight_bits(product: Product, plan: QuantizationPlan) -> int:
    own = weight_name(product.name)
    names = product.weight or ()
    if own in names:  # a layer sees its own quantizer, whoever else holds the weight
        names = (own,)
    by_name = {weight_name(layer): bits for layer, bits in plan.weights.items()}
    return max(
        (by_name.get(name, FULL_PRECISION_BITS) for name in names), default=FULL_PRECISION_BITS
    )


def _elements(product: Product) -> int:
    return prod(product.shape) if product.weight is not None else 0


def _share(counts: Counter[State], *, without: State | None = None) -> float:
    """Of what is quantized; 1 where there is nothing."""
    total = counts.total() - (counts[without] if without else 0)
    return counts["quantized"] / total if total else 1.0
