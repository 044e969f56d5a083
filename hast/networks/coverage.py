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
    rows = _rows(network, spec, plan)
    sharing: dict[tuple[str, ...], list[_Row]] = {}
    macs: Counter[State] = Counter()
    for row in rows:
        macs[row.state] += row.product.macs
        if row.product.weight is not None:
            sharing.setdefault(row.product.weight or (row.product.name,), []).append(row)
    weights: Counter[State] = Counter()
    for held in sharing.values():
        weights[worst(row.weight for row in held)] += held[-1].elements
    return Coverage(
        weights=_share(weights),
        multiply_adds=_share(macs),
        weights_wanted=_share(weights, without="skipped"),
        multiply_adds_wanted=_share(macs, without="skipped"),
        full_precision=tuple(dict.fromkeys(r.product.name for r in rows if r.state == "full")),
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
    first: dict[str, _Row] = {}
    macs: dict[str, Counter[State]] = {}
    for row in _rows(network, spec, plan):
        name = row.product.name
        if first.setdefault(name, row).product.weight is None:
            first[name] = row
        macs.setdefault(name, Counter())[row.state] += row.product.macs
    size = sum(row.elements * row.bits for row in first.values())
    work = sum(map(Counter.total, macs.values()))
    return [
        LayerBits(
            layer=name,
            shape="x".join(map(str, row.product.shape)),
            weight_bits=row.bits,
            act_bits=plan.activations.get(name),
            parameters=row.elements,
            size_share=row.elements * row.bits / size,
            mac_share=macs[name].total() / work,
            low_bit=_share(macs[name]),
        )
        for name, row in first.items()
    ]


class _Row(NamedTuple):
    """A product, and what becomes of it."""

    product: Product
    elements: int  # of the weight
    bits: int  # of the weight
    weight: State
    state: State  # of the multiply-adds: `quantized` means that both operands are


def _rows(network: nn.Module, spec: ModelSpec, plan: QuantizationPlan) -> list[_Row]:
    """The products of a pass in which quantizers would be where the plan has them."""
    modules, kinds = dict(network.named_modules()), ACTIVATED[plan.placement]
    denied = [name for name in plan.skipped if isinstance(modules.get(name), kinds)]
    sites: dict[str, State] = dict.fromkeys(denied, "skipped")
    sites |= dict.fromkeys(plan.activations, "quantized")
    widths = {weight_name(layer): bits for layer, bits in plan.weights.items()}
    rows = []
    for product in products(network, spec, sites=sites, placement=plan.placement):
        own, names = weight_name(product.name), product.weight or ()
        # A layer sees its own quantizer, whoever else holds the weight.
        held = [widths.get(n, FULL_PRECISION_BITS) for n in ((own,) if own in names else names)]
        bits = max(held, default=FULL_PRECISION_BITS)
        weight: State = "full" if bits == FULL_PRECISION_BITS else "quantized"
        known = (product.activation,) if product.weight is None else (product.activation, weight)
        state = worst(known)
        if product.name in plan.skipped:
            weight = state = "skipped"
        elements = prod(product.shape) if product.weight is not None else 0
        rows.append(_Row(product, elements, bits, weight, state))
    return rows


def _share(counts: Counter[State], *, without: State | None = None) -> float:
    """Of what is quantized; 1 where there is nothing."""
    total = counts.total() - (counts[without] if without else 0)
    return counts["quantized"] / total if total else 1.0
