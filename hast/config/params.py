"""All of params.yaml: its sections, their check before the first stage runs, and complete contents.

`hast preset NAME` writes those for well-known teachers and data, whose numbers lie in
tables/presets.yaml; `hast init` those for a network of one's own.
"""

from itertools import chain
from pathlib import Path
from typing import Any

from hast.config import tables
from hast.config.bank import BankConfig
from hast.config.bit_width import load_bit_widths
from hast.config.calibrate import CalibrationConfig
from hast.config.dataset import DatasetConfig
from hast.config.export import ExportConfig
from hast.config.finetune import FinetuneConfig
from hast.config.generator import GeneratorConfig
from hast.config.layers import PlanConfig
from hast.config.recipes import Settings, entries_for, merged, method_settings, size_settings
from hast.config.reconstruct import ReconstructionConfig
from hast.config.section import Section, read_yaml, section_of
from hast.config.sensitivity import SensitivityConfig
from hast.config.synthesize import SynthesisConfig
from hast.config.teacher import TeacherConfig
from hast.errors import InputError

_TABLES = read_yaml(Path(tables.__file__).with_name("presets.yaml"))
_LARGE, PRESETS = _TABLES["large images"], tuple(_TABLES["presets"])
_LARGE_IMAGE = 96 * 96  # pixels from which the ImageNet numbers fit better
_QUICK_MACS = 6e7  # for one image; ResNet-20 at 32 x 32 takes 4e7
SMALLER: float = _LARGE["best"]["reconstruct"]["resize"]
SECTIONS: dict[str, type[Section]] = {  # in the order of params.yaml
    "dataset": DatasetConfig,
    "teacher": TeacherConfig,
    "generator": GeneratorConfig,
    "synthesize": SynthesisConfig,
    "bank": BankConfig,
    "sensitivity": SensitivityConfig,
    "layers": PlanConfig,
    "calibrate": CalibrationConfig,
    "reconstruct": ReconstructionConfig,
    "quantize": FinetuneConfig,
    "export": ExportConfig,
}


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


def own_network(
    *,
    teacher: dict[str, Any],
    input_shape: tuple[int, int, int],
    macs: int,
    data_root: str | None,
    bit_widths: list[str],
    recipe: str = "hast",
    size: str = "quick",
    synthesizes: bool = True,
    resizes: bool = True,
) -> dict[str, Any]:
    """The content of a params file for a network that nobody tuned anything for.

    Args:
        teacher: section `teacher`.
        input_shape: of the network; small images get the paper's CIFAR numbers, larger ones those
            for ImageNet.
        macs: multiply-adds for one image; a `quick` run of a heavier network makes fewer samples
            and steps, so that it still ends in minutes.
        data_root: folder with the test images; without it there is no final measurement.
        bit_widths, recipe, size: see `hast.config.bit_width` and `hast.config.recipes`.
        synthesizes: whether it has the BatchNorm that a generator is trained by; without, the
            bank's pictures set the activation ranges.
        resizes: whether it takes images of share `SMALLER` of its side.
    """
    large = _is_large(input_shape)
    folder = {"name": "folder", "root": data_root, "crop_fraction": usual_crop(input_shape)}
    dataset = {"name": "none"} if data_root is None else folder
    parts = [size_settings(size, recipe)]
    if large:
        parts += entries_for(_LARGE, recipe, size)
    elif size == "quick":
        parts.append(_lighter(size_settings(size, recipe), macs))
    # Placement `relu` misses activations that are functions and not modules.
    layers = {"placement": "inputs", "target": "onnxruntime"}
    own: Settings = {"dataset": dataset, "teacher": teacher, "layers": layers}
    if not synthesizes:
        own["calibrate"] = {"images": "bank"}
    if not resizes:
        own["reconstruct"] = {"resize": 1.0}
    return {"bit_widths": bit_widths, **_composed([*parts, own], recipe)}


def usual_crop(input_shape: tuple[int, int, int]) -> float:
    """Share of a picture that is cut out of its centre: torchvision's for large ones, else all."""
    return 0.875 if _is_large(input_shape) else 1.0


def _is_large(input_shape: tuple[int, int, int]) -> bool:
    return input_shape[1] * input_shape[2] >= _LARGE_IMAGE


def _lighter(settings: Settings, macs: int) -> Settings:
    """Fewer samples and steps for a network that is heavier than the one `quick` was made for."""
    share = min(1.0, _QUICK_MACS / macs)
    samples = max(64, round(settings["synthesize"]["samples"] * share / 64) * 64)
    steps = max(200, round(settings["quantize"]["steps"] * share / 100) * 100)
    return {
        "synthesize": {"samples": samples, "batch_size": min(256, samples)},
        "quantize": {"steps": steps, "milestones": [steps // 2, steps * 3 // 4]},
    }


def preset(
    name: str,
    *,
    recipe: str = "hast",
    size: str = "quick",
    weights: str | None = None,
    data_root: str | None = None,
) -> dict[str, Any]:
    """The content of a params file.

    Args:
        name: one of `PRESETS`.
        recipe, size: see `hast.config.recipes`.
        weights: of the teacher, a checkpoint or a tag; by default the source's pretrained ones.
        data_root: folder with the test images.

    Raises:
        InputError: an unknown name.
    """
    if name not in PRESETS:
        raise InputError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    large = _LARGE if name.startswith("imagenet_") else {}
    differing = [entries_for(table, recipe, size) for table in (large, _TABLES["presets"][name])]
    chosen = _composed([size_settings(size, recipe), *chain(*differing)], recipe)
    teacher = chosen["teacher"]
    if weights is not None or not teacher["source"].startswith(("builtin:", "python:")):
        teacher["weights"] = weights or "pretrained"
    if data_root is not None:
        chosen["dataset"]["root"] = data_root
    return {"bit_widths": ["w4a4", "w3a3"], **chosen}


def _composed(parts: list[Settings], recipe: str) -> Settings:
    """Every parameter, so that `dvc exp run --set-param` and the report find it."""
    method = method_settings(recipe)
    # The presets' numbers are the paper's; another recipe has its own.
    chosen = merged([method, *parts] if recipe == "hast" else [*parts, method])
    return {
        # What is known of a teacher is left as it was given.
        key: chosen[key]
        if key == "teacher"
        else section.model_validate(chosen.get(key, {})).model_dump(mode="json")
        for key, section in SECTIONS.items()
    }
