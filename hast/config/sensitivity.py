"""Measuring what each layer loses."""

from pydantic import Field

from hast.config.layers import Bits
from hast.config.section import Section


class SensitivityConfig(Section):
    """Switches the allocation of weight bits by sensitivity on."""

    enabled: bool = False
    """Whether it is done at all."""
    candidates: tuple[Bits, ...] = Field(default=(2, 3, 4, 5, 6, 8), min_length=1)
    """Weight bits to try."""
    samples: int = Field(default=256, ge=1)
    """Images to measure on, the first ones of the bank."""
