"""A dry run: what would be matched, aligned and quantized in a network."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from hast.config.bit_width import BitWidth
from hast.config.layers import PlanConfig
from hast.config.spec import ModelSpec
from hast.errors import InputError
from hast.math.quantization import MAX_BITS, MIN_BITS
from hast.networks.batch_norm import batch_norms, freeze
from hast.networks.blocks import find_blocks
from hast.networks.classifier import count_classes
from hast.networks.coverage import Coverage, LayerBits, layer_table, plan_coverage
from hast.networks.given import plain_copy
from hast.networks.plan import plan_quantization
from hast.networks.size import packed_size
from hast.networks.sources import build_network
from hast.networks.student import prepare_student

_WIDTHS = [BitWidth(bits, bits) for bits in range(MIN_BITS, MAX_BITS + 1)]


class Inspection(NamedTuple):
    batch_norms: int
    blocks: list[str]
    layers: list[LayerBits]
    coverage: Coverage
    sizes: dict[str, int]  # bytes by bit width, `fp32` first

    def as_plain(self) -> dict[str, Any]:
        """For JSON."""
        layers = [layer._asdict() for layer in self.layers]
        return self._asdict() | {"layers": layers, "coverage": self.coverage.model_dump()}


def untrained(
    source: str, arguments: Mapping[str, Any], input_shape: tuple[int, int, int] | None
) -> tuple[nn.Module, ModelSpec]:
    """A network with random weights, frozen, and its spec without statistics of data.

    Raises:
        InputError: the source or the shape is wrong.
    """
    built, known = build_network(source, arguments)
    network = freeze(plain_copy(built, say=None))
    input_shape = input_shape or known.input_shape
    if input_shape is None:
        raise InputError(f"{source} does not know its input shape; give --input-shape CxHxW")
    mean, std = ((value,) * input_shape[0] for value in (0.0, 1.0))
    classes = count_classes(network, input_shape)
    return network, ModelSpec(input_shape=input_shape, num_classes=classes, mean=mean, std=std)


def inspection(
    network: nn.Module,
    spec: ModelSpec,
    *,
    bits: BitWidth,
    rules: PlanConfig,
    alignment_modules: Sequence[str] = (),
) -> Inspection:
    """Look what the method finds in a network.

    Raises:
        InputError: a rule is wrong.
    """
    plans = {w: plan_quantization(network, spec, w, rules) for w in sorted({*_WIDTHS, bits})}
    sizes = {str(w): packed_size(prepare_student(network, spec, p)) for w, p in plans.items()}
    return Inspection(
        batch_norms=len(batch_norms(network)),
        blocks=find_blocks(network, spec, alignment_modules),
        layers=layer_table(network, spec, plans[bits]),
        coverage=plan_coverage(network, spec, plans[bits]),
        sizes={"fp32": packed_size(network), **sizes},
    )
