"""What a network knows of its own making: kept as an attribute, so that copies have it too."""

from typing import Any

from torch import nn

from hast.config.section import Section
from hast.config.spec import ModelSpec
from hast.errors import InputError
from hast.networks.plan import QuantizationPlan

_ATTRIBUTE = "hast_provenance"


class Provenance(Section):
    """How to build a network, and, of a student, how it was quantized.

    Attributes:
        source, source_args: see `hast.networks.sources`; None where a user built the network.
        spec, plan, teacher: of a student: its contract, its bits, and its teacher's fingerprint.
        batch_norm_folded: whether scales and biases have taken in the BatchNorm layers.
    """

    source: str | None = None
    source_args: dict[str, Any] = {}
    spec: ModelSpec | None = None
    plan: QuantizationPlan | None = None
    teacher: str | None = None
    batch_norm_folded: bool = False


def remember(network: nn.Module, **known: Any) -> None:
    """Add fields of `Provenance` to what `network` knows."""
    # `__dict__` and not setattr: a user's module may have an opinion on new attributes.
    network.__dict__[_ATTRIBUTE] = provenance_of(network).model_copy(update=known)


def provenance_of(network: nn.Module) -> Provenance:
    """What `network` knows; a network from elsewhere knows nothing."""
    known: Provenance = network.__dict__.get(_ATTRIBUTE, Provenance())
    return known


def spec_and_plan(student: nn.Module) -> tuple[ModelSpec, QuantizationPlan]:
    """What a student expects and answers, and its bits.

    Raises:
        InputError: it is no student.
    """
    known = provenance_of(student)
    if known.spec is None or known.plan is None:
        raise InputError(f"{type(student).__name__} is no student; make one with hast.quantize")
    return known.spec, known.plan
