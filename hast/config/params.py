"""The check of all of params.yaml, before the first stage runs."""

from pathlib import Path

from hast.config.bit_width import load_bit_widths
from hast.config.finetune import FinetuneConfig
from hast.config.layers import PlanConfig
from hast.config.presets import SECTIONS
from hast.config.section import read_yaml, section_of
from hast.config.sensitivity import SensitivityConfig
from hast.errors import InputError


def check_params(path: Path) -> None:
    """Check every section.

    Raises:
        InputError: at the first wrong value, missing section or unknown section.
    """
    known = {"bit_widths", *SECTIONS}
    params = read_yaml(path)
    if "recipe" in params:
        raise InputError(
            f"{path}: `recipe` is no parameter any more, got {params['recipe']!r}; run `hast recipe"
            f" {params['recipe']}`, which writes the recipe's values here and takes the word out"
        )
    unknown = params.keys() - known
    if unknown:
        raise InputError(f"{path}: unknown section {min(unknown)!r}; known are {sorted(known)}")
    load_bit_widths(path)
    for key, section in SECTIONS.items():
        section_of(params, key, section, path)
    layers = section_of(params, "layers", PlanConfig, path)
    quantize = section_of(params, "quantize", FinetuneConfig, path)
    sensitivity = section_of(params, "sensitivity", SensitivityConfig, path)
    if layers.quantizer == "learned" and quantize.optimizer == "sgd":
        raise InputError(
            f"{path}: layers.quantizer 'learned' needs quantize.optimizer 'adamw', got 'sgd'; set"
            " it, or run `hast recipe best`, which sets both"
        )
    if layers.average_weight_bits != "width" and not sensitivity.enabled:
        raise InputError(f"{path}: layers.average_weight_bits needs sensitivity.enabled: true")
