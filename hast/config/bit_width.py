"""Bit widths of a student, the items of the pipeline's matrix."""

import re
from pathlib import Path
from typing import NamedTuple

from hast.config.section import read_yaml
from hast.errors import InputError
from hast.math.quantization import MAX_BITS, MIN_BITS

FULL_PRECISION_BITS = 32


class BitWidth(NamedTuple):
    """Code widths of weights and activations, written `w4a4` in params.yaml; `w4a32` quantizes
    weights alone."""

    weight_bits: int
    act_bits: int

    @classmethod
    def parse(cls, text: str) -> "BitWidth":
        """Read `w<bits>a<bits>`.

        Raises:
            InputError: another form, or a width outside 2..8.
        """
        match = re.fullmatch(r"w([1-9]\d*)a([1-9]\d*)", text)
        widths = [int(bits) for bits in match.groups()] if match else []
        quantized = widths[:1] if widths[1:] == [FULL_PRECISION_BITS] else widths
        if not widths or not all(MIN_BITS <= bits <= MAX_BITS for bits in quantized):
            raise InputError(
                f"bit width must be written w<bits>a<bits> with {MIN_BITS} to {MAX_BITS} bits,"
                f" such as w4a4, or a{FULL_PRECISION_BITS} for weights alone; got {text!r}"
            )
        return cls(*widths)

    @property
    def weights_only(self) -> bool:
        return self.act_bits == FULL_PRECISION_BITS

    def __str__(self) -> str:
        return f"w{self.weight_bits}a{self.act_bits}"


def load_bit_widths(path: Path) -> list[BitWidth]:
    """Read the top-level list `bit_widths` of a params file.

    Raises:
        InputError: not a list, empty, a malformed width, or a width named twice.
    """
    values = read_yaml(path).get("bit_widths")
    if not isinstance(values, list) or not values:
        raise InputError(f"{path}: bit_widths must be a non-empty list, got {values!r}")
    if len(set(map(str, values))) < len(values):
        raise InputError(f"{path}: bit_widths must not name a width twice, got {values!r}")
    return [BitWidth.parse(str(value)) for value in values]
