"""All sections of params.yaml, to check the whole file before the first stage runs."""

from pathlib import Path

from hast.bank import BankConfig
from hast.bit_width import load_bit_widths
from hast.config import Section, read_yaml
from hast.errors import InputError
from hast.export.bundle import ExportConfig
from hast.loops.calibrate import CalibrationConfig
from hast.loops.finetune import FinetuneConfig
from hast.loops.score import ScoreConfig
from hast.loops.sensitivity import SensitivityConfig
from hast.loops.synthesize import SynthesisConfig
from hast.loops.train_generator import GeneratorConfig
from hast.networks.plan import PlanConfig
from hast.recipes import load_section_by_recipe
from hast.storage.datasets import DatasetConfig
from stages.teacher import TeacherConfig

SECTIONS: dict[str, type[Section]] = {
    "dataset": DatasetConfig,
    "teacher": TeacherConfig,
    "generator": GeneratorConfig,
    "synthesize": SynthesisConfig,
    "bank": BankConfig,
    "sensitivity": SensitivityConfig,
    "layers": PlanConfig,
    "calibrate": CalibrationConfig,
    "score": ScoreConfig,
    "quantize": FinetuneConfig,
    "export": ExportConfig,
}


def check_params(path: Path) -> None:
    """Check every section.

    Raises:
        InputError: at the first wrong value, missing section or unknown section.
    """
    known = {"recipe", "bit_widths", *SECTIONS}
    unknown = read_yaml(path).keys() - known
    if unknown:
        raise InputError(f"{path}: unknown section {min(unknown)!r}; known are {sorted(known)}")
    load_bit_widths(path)
    sections = {
        key: load_section_by_recipe(path, key, section) for key, section in SECTIONS.items()
    }
    layers, sensitivity = sections["layers"], sections["sensitivity"]
    assert isinstance(layers, PlanConfig)
    assert isinstance(sensitivity, SensitivityConfig)
    if layers.average_weight_bits is not None and not sensitivity.enabled:
        raise InputError(f"{path}: layers.average_weight_bits needs sensitivity.enabled: true")
