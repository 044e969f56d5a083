"""Complete parameters for well-known teachers and data: what `hast preset NAME` writes.

A preset lists what differs from the sections' defaults, which are the paper's CIFAR-10 setting.
Source of the ImageNet and CIFAR-100 numbers: the values in effect in the authors' runs, where these
differ from their configuration files.
"""

from typing import Any

from hast.config.bank import BankConfig
from hast.config.calibrate import CalibrationConfig
from hast.config.dataset import DatasetConfig
from hast.config.export import ExportConfig
from hast.config.finetune import FinetuneConfig
from hast.config.generator import GeneratorConfig
from hast.config.layers import PlanConfig
from hast.config.recipes import Settings, merged, method_settings, size_settings
from hast.config.reconstruct import ReconstructionConfig
from hast.config.section import Section
from hast.config.sensitivity import SensitivityConfig
from hast.config.synthesize import SynthesisConfig
from hast.config.teacher import TeacherConfig
from hast.errors import InputError

_CIFAR10 = {
    "mean": [0.49139968, 0.48215827, 0.44653124],
    "std": [0.24703233, 0.24348505, 0.26158768],
}
_CIFAR100 = {"mean": [0.5071, 0.4865, 0.4409], "std": [0.2673, 0.2564, 0.2762]}
_IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_QUICK_MACS = 6e7  # for one image; ResNet-20 at 32 x 32 takes 4e7
SMALLER = 0.57  # of the side of large images that are reconstructed on; 128 of 224
_LARGE_IMAGE = 96 * 96  # pixels from which the ImageNet numbers fit better
_IMAGENET_SECTIONS: Settings = {
    "synthesize": {
        "hard_weight": 0.1,
        "gamma": 0.5,
        "augment_probability": 0.5,
    },
    "bank": {"crop_fraction": 0.875},
    "quantize": {"batch_size": 16, "learning_rate": 1e-6, "milestones": [20000]},
    "export": {"samples": 256, "reference_samples": 4},  # the references take seconds an image
}
# Measured on EfficientNet-Lite0 (docs/results.md): layers differ in scale, and few steps must do.
_IMAGENET_BEST: Settings = {
    "synthesize": {
        "space": "spectrum",
        "learning_rate": 0.1,
        "augment_probability": 0.0,
    },
    "layers": {"first_last_bits": 8},
    "reconstruct": {"samples": 256, "batch_size": 16, "bias_rate": 1e-2, "resize": SMALLER},
}
_IMAGENET_QUICK_BEST: Settings = {
    "synthesize": {"samples": 96, "steps": 150},
    "reconstruct": {"samples": 96},
    "quantize": {"steps": 0, "milestones": []},  # reconstruction is what pays in minutes
}
_IMAGENET_QUICK: Settings = {
    "generator": {"steps": 50},
    "synthesize": {"samples": 64, "batch_size": 32, "steps": 100},
    "calibrate": {"batches": 8, "batch_size": 16},
    "quantize": {"steps": 200, "milestones": [100, 150]},
}


def _composed(parts: list[Settings], recipe: str) -> Settings:
    """Every parameter, so that `dvc exp run --set-param` and the report find it."""
    method = method_settings(recipe)
    # The numbers above are the paper's; another recipe has its own.
    chosen = merged([method, *parts] if recipe == "hast" else [*parts, method])
    return {
        # What is known of a teacher is left as it was given.
        key: chosen[key]
        if key == "teacher"
        else section.model_validate(chosen.get(key, {})).model_dump(mode="json")
        for key, section in SECTIONS.items()
    }


def _for_large_images(recipe: str, size: str) -> list[Settings]:
    parts = [_IMAGENET_SECTIONS]
    if size == "quick":
        parts.append(_IMAGENET_QUICK)
    if recipe == "best":
        parts += [_IMAGENET_BEST, _IMAGENET_QUICK_BEST if size == "quick" else {}]
    return parts


def _folder(root: str, **options: Any) -> dict[str, Any]:
    return {"name": "folder", "root": root, **options}


_PRESETS: dict[str, tuple[Settings, Settings]] = {  # at any size, at size quick
    "digits": (
        {
            "dataset": {"name": "digits"},
            "layers": {"placement": "inputs"},
            "teacher": {"source": "builtin:digits_resnet"},
            "quantize": {"flip": False},
        },
        {
            "generator": {"steps": 800},
            "synthesize": {"samples": 1024, "steps": 400},
            "calibrate": {"batches": 50},
            "quantize": {"steps": 800, "milestones": [400, 600]},
        },
    ),
    "cifar10_resnet20": (
        {
            "dataset": _folder("data/cifar10"),
            "teacher": {"source": "pytorchcv:resnet20_cifar10", "spec": _CIFAR10},
        },
        {},
    ),
    "cifar100_resnet20": (
        {
            "dataset": _folder("data/cifar100"),
            "teacher": {"source": "pytorchcv:resnet20_cifar100", "spec": _CIFAR100},
        },
        {},
    ),
    "imagenet_resnet18": (
        {
            "dataset": _folder("data/imagenet", crop_fraction=0.875),
            "teacher": {"source": "pytorchcv:resnet18", "spec": _IMAGENET},
        },
        {},
    ),
    "imagenet_efficientnet_lite0": (
        {
            "dataset": _folder("data/imagenet", crop_fraction=0.875),
            "teacher": {
                "source": "python:hast.networks.efficientnet_lite0:efficientnet_lite0",
                "spec": {
                    "input_shape": [3, 224, 224],
                    "num_classes": 1000,
                    "mean": [0.498] * 3,
                    "std": [0.502] * 3,
                },
            },
            # Its activations are ReLU6, its shortcuts linear.
            "layers": {"placement": "inputs", "target": "onnxruntime"},
        },
        {},
    ),
    "imagenet_mobilenet_v2": (
        {
            "dataset": _folder("data/imagenet", crop_fraction=0.875),
            "teacher": {"source": "pytorchcv:mobilenetv2_w1", "spec": _IMAGENET},
        },
        {},
    ),
}
PRESETS = tuple(_PRESETS)
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
    large = input_shape[1] * input_shape[2] >= _LARGE_IMAGE
    crop = {"crop_fraction": 0.875} if large else {}
    dataset = {"name": "none"} if data_root is None else _folder(data_root, **crop)
    parts = [size_settings(size, recipe)]
    if large:
        parts += _for_large_images(recipe, size)
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
    if name not in _PRESETS:
        raise InputError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    always, when_quick = _PRESETS[name]
    large = _for_large_images(recipe, size) if name.startswith("imagenet_") else []
    parts = [size_settings(size, recipe), *large, always, when_quick if size == "quick" else {}]
    chosen = _composed(parts, recipe)
    teacher = chosen["teacher"]
    if weights is not None or not teacher["source"].startswith(("builtin:", "python:")):
        teacher["weights"] = weights or "pretrained"
    if data_root is not None:
        chosen["dataset"]["root"] = data_root
    return {"bit_widths": ["w4a4", "w3a3"], **chosen}
