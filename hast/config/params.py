"""The check of all of params.yaml, before the first stage runs."""

from pathlib import Path
from typing import Any

from hast.config.bit_width import load_bit_widths
from hast.config.presets import SECTIONS
from hast.config.section import read_yaml, section_of
from hast.errors import InputError


def check_params(path: Path) -> None:
    """Check every section.

    Raises:
        InputError: at the first wrong value, missing section or unknown section.
    """
    known = {"bit_widths", *SECTIONS}
    params = read_yaml(path)
    unknown = params.keys() - known
    if unknown:
        raise InputError(f"{path}: unknown section {min(unknown)!r}; known are {sorted(known)}")
    load_bit_widths(path)
    read: dict[str, Any] = {
        key: section_of(params, key, section, path) for key, section in SECTIONS.items()
    }
    layers = read["layers"]
    if layers.quantizer == "learned" and read["quantize"].optimizer == "sgd":
        raise InputError(
            f"{path}: layers.quantizer 'learned' needs quantize.optimizer 'adamw', got 'sgd'; set"
            " it, or run `hast recipe best`, which sets both"
        )
    if layers.average_weight_bits != "width" and not read["sensitivity"].enabled:
        raise InputError(f"{path}: layers.average_weight_bits needs sensitivity.enabled: true")
