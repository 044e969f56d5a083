"""The engine from Python: the same loops as the pipeline, on networks and banks in memory.

A teacher is never changed: every function works on a frozen copy. Further keywords are the
parameters of the section that a function names; a wrong one raises `hast.InputError`.
"""

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from hast import __version__
from hast.bank import Bank, BankCard, Dtype
from hast.bit_width import BitWidth
from hast.config import parse_section
from hast.engine import Engine, choose_engine, place, select_device
from hast.errors import InputError
from hast.loops.calibrate import (
    CalibrationConfig,
    bank_batches,
    calibrate,
    generator_batches,
)
from hast.loops.finetune import WORK_PER_IMAGE, FinetuneConfig, finetune
from hast.loops.profile import profile_batches, whole_profile
from hast.loops.score import score
from hast.loops.synthesize import SynthesisConfig, batch_sizes
from hast.loops.synthesize import synthesize as optimise
from hast.loops.train_generator import GeneratorConfig, build_generator
from hast.loops.train_generator import train_generator as train
from hast.networks.batch_norm import freeze
from hast.networks.blocks import find_blocks
from hast.networks.classifier import check_classifier
from hast.networks.coverage import plan_coverage, warn_of_full_precision
from hast.networks.fingerprint import fingerprint
from hast.networks.generator import Generator
from hast.networks.plan import PlanConfig, forward_macs, plan_quantization
from hast.networks.spec import ModelSpec
from hast.networks.student import prepare_student
from hast.progress import drain, track
from hast.recipes import recipe_settings
from hast.runtime import device_of
from hast.storage.bank import StoredBank
from hast.storage.pixels import as_stored

Device = torch.device | str | None


def train_generator(
    teacher: nn.Module,
    spec: ModelSpec,
    *,
    steps: int = 800,
    seed: int = 0,
    device: Device = None,
    progress: bool = True,
    **settings: Any,
) -> Generator:
    """Train the generator whose images set activation ranges.

    Args:
        teacher: full-precision classifier with BatchNorm.
        spec: what it expects and answers.
        steps: training steps.
        seed: of weights, labels and noise.
        device: where to compute; by default where the teacher is.
        progress: show a bar, or lines where there is no terminal.
        settings: other fields of `hast.loops.train_generator.GeneratorConfig`.
    """
    source = _frozen_copy(teacher, spec, device)
    values = {"steps": steps, "seed": seed, **settings}
    config = parse_section(values, GeneratorConfig, name="train_generator")
    generator = build_generator(spec, config).to(device_of(source))
    engine = _engine(source, spec, images=3 * config.steps * config.batch_size)
    records = train(generator, source, config, engine)
    drain(records, total=config.steps, label="generator", fields=("loss",), show=progress)
    return freeze(generator)


def synthesize(
    teacher: nn.Module,
    spec: ModelSpec,
    *,
    samples: int = 1024,
    steps: int = 500,
    seed: int = 0,
    dtype: Dtype = "uint8",
    generator: Generator | None = None,
    device: Device = None,
    progress: bool = True,
    **settings: Any,
) -> Bank:
    """Synthesize hard samples from the teacher alone.

    Args:
        teacher: full-precision classifier with BatchNorm.
        spec: what it expects and answers.
        samples: number of images.
        steps: optimisation steps of each batch of images.
        seed: of pixels and labels; batch k depends on it and on k alone.
        dtype: as which `hast.save_bank` stores the pixels. They come back rounded to it, so that
            what is trained on and whose difficulty is measured is what will be stored.
        generator: needed for `init="generator"`.
        device: where to compute; by default where the teacher is.
        progress: show a bar, or lines where there is no terminal.
        settings: other fields of `hast.loops.synthesize.SynthesisConfig`.

    Returns:
        A bank on the CPU; `hast.save_bank` writes it.
    """
    source = _frozen_copy(teacher, spec, device)
    values = {"samples": samples, "steps": steps, "seed": seed, **settings}
    config = parse_section(values, SynthesisConfig, name="synthesize")
    start = None
    if config.init == "generator" and generator is not None:
        start = place(copy.deepcopy(generator), device_of(source))
    batches = range(len(batch_sizes(config)))
    engine = _engine(source, spec, images=3 * config.samples * config.steps)
    records = optimise(source, start, spec, config, batches, engine)
    total = len(batches) * config.steps
    shown = track(records, total=total, label="synthesize", fields=("loss",), show=progress)
    results = [step for step in shown if step.is_last]
    pixels = torch.cat([step.images for step in results]).cpu().contiguous()
    images = as_stored(pixels, dtype)
    labels = torch.cat([step.labels for step in results]).cpu()
    card = BankCard(
        samples=len(images),
        dtype=dtype,
        spec=spec,
        teacher=fingerprint(teacher.state_dict()),
        synthesis=config.model_dump(),
        generator=fingerprint(start.state_dict()) if start else None,
        libraries={"hast": __version__, "torch": str(torch.__version__)},
    )
    size = config.batch_size
    parts = profile_batches(source, zip(images.split(size), labels.split(size), strict=True))
    return Bank(images, labels, card, *whole_profile(parts))


def quantize(
    teacher: nn.Module,
    spec: ModelSpec,
    bank: Bank | StoredBank,
    *,
    weight_bits: int = 4,
    act_bits: int = 4,
    steps: int = 2000,
    seed: int = 0,
    placement: str = "inputs",
    quantizer: str = "minmax",
    first_last_bits: int | None = None,
    overrides: Sequence[Any] = (),
    skip: Sequence[str] = (),
    calibration: Mapping[str, Any] | None = None,
    generator: Generator | None = None,
    device: Device = None,
    progress: bool = True,
    **settings: Any,
) -> nn.Module:
    """Make a low-bit student of the teacher and fine-tune it on a bank.

    Args:
        teacher: full-precision classifier with BatchNorm.
        spec: what it expects and answers.
        bank: samples made for this teacher: in memory, or left in their files (`StoredBank`).
        weight_bits, act_bits: code widths, 2..8.
        steps: fine-tuning steps; the rate drops to a tenth at a half and at three quarters.
        seed: of ranges, order of samples and augmentation.
        placement, quantizer, first_last_bits, overrides, skip: see `hast.networks.plan.PlanConfig`.
        calibration: settings of `hast.loops.calibrate.CalibrationConfig`.
        generator: its images set the activation ranges, as in the paper; without one the bank's do.
        device: where to compute; by default where the teacher is.
        progress: show a bar, or lines where there is no terminal.
        settings: other fields of `hast.loops.finetune.FinetuneConfig`.

    Returns:
        The student: the teacher's class with quantizers on its modules, in eval mode.

    Raises:
        InputError: a wrong setting, or a bank that was made for another teacher.
    """
    source = _frozen_copy(teacher, spec, device)
    _check_bank(bank, teacher, spec)
    milestones = sorted({steps // 2, steps * 3 // 4} - {0})
    values = {"steps": steps, "seed": seed, "milestones": milestones, **settings}
    config = parse_section(values, FinetuneConfig, name="quantize")
    rules = parse_section(
        {
            "placement": placement,
            "quantizer": quantizer,
            "first_last_bits": first_last_bits,
            "overrides": overrides,
            "skip": skip,
        },
        PlanConfig,
        name="quantize",
    )
    width = BitWidth.parse(f"w{weight_bits}a{act_bits}")
    plan = plan_quantization(source, spec, width, rules)
    blocks = find_blocks(source, spec, config.alignment_modules)
    ranges = parse_section(
        {
            "seed": seed,
            "images": "bank" if generator is None else "generator",
            **(calibration or {}),
        },
        CalibrationConfig,
        name="calibration",
    )
    student = prepare_student(source, spec, plan, range_momentum=ranges.range_momentum)
    warn_of_full_precision(plan_coverage(source, spec, plan), width)
    if ranges.images == "bank":
        batches = partial(bank_batches, bank.images, ranges, device_of(source))
    elif generator is None:
        raise InputError("calibration: images 'generator' needs a generator, got none")
    else:
        generator = place(copy.deepcopy(generator), device_of(source))
        batches = partial(generator_batches, generator, ranges)
    observed = calibrate(student, source, batches, ranges)
    drain(observed, total=ranges.records, label="calibrate", show=progress)
    scores = score(source, student, bank.images, bank.labels)
    difficulty = torch.cat([part.student_difficulty for part in scores])
    engine = _engine(source, spec, images=WORK_PER_IMAGE * config.steps * config.batch_size)
    records = finetune(student, source, bank.images, difficulty, blocks, config, engine)
    drain(records, total=config.steps, label=f"quantize {width}", fields=("loss",), show=progress)
    return student


def quantize_zero_shot(
    teacher: nn.Module,
    spec: ModelSpec,
    *,
    weight_bits: int = 4,
    act_bits: int = 4,
    recipe: str = "hast",
    size: str = "quick",
    seed: int = 0,
    synthesis: Mapping[str, Any] | None = None,
    device: Device = None,
    progress: bool = True,
    **settings: Any,
) -> nn.Module:
    """Synthesize a bank and make a low-bit student, in one call.

    Args:
        teacher, spec, weight_bits, act_bits, seed, device, progress: as of `quantize`.
        recipe: `hast` is the paper, `best` what did best at the same compute; see `hast.recipes`.
        size: `quick` ends in minutes on two cores, `paper` is the paper's.
        synthesis: settings of `synthesize` that differ from the recipe's.
        settings: settings of `quantize` that differ from the recipe's.

    Raises:
        InputError: a wrong setting.
    """
    values = recipe_settings(recipe, size)
    common: dict[str, Any] = {"seed": seed, "device": device, "progress": progress}
    pixels = values["synthesize"] | dict(synthesis or {})
    ranges = values.get("calibrate", {}) | settings.pop("calibration", {})
    generator = None
    if pixels.get("init") == "generator" or ranges.get("images") != "bank":
        generator = train_generator(teacher, spec, **values["generator"], **common)
    bank = synthesize(teacher, spec, generator=generator, **common, **pixels)
    chosen = values["quantize"] | values.get("layers", {})
    if "steps" in settings:
        chosen.pop("milestones")  # they belong to the recipe's steps
    return quantize(
        teacher, spec, bank, weight_bits=weight_bits, act_bits=act_bits, calibration=ranges,
        generator=generator, **common, **chosen | settings,
    )  # fmt: skip


def _frozen_copy(teacher: nn.Module, spec: ModelSpec, device: Device) -> nn.Module:
    source = freeze(copy.deepcopy(teacher))
    place(source, device_of(source) if device is None else select_device(str(device)))
    check_classifier(source, spec)
    return source


def _engine(source: nn.Module, spec: ModelSpec, *, images: int) -> Engine:
    """The engine for as much work as `images` forward passes of one image."""
    return choose_engine(device_of(source), work=forward_macs(source, spec) * images)


def _check_bank(bank: Bank | StoredBank, teacher: nn.Module, spec: ModelSpec) -> None:
    expected = fingerprint(teacher.state_dict())
    if bank.card.teacher != expected:
        raise InputError(
            f"the bank was made for teacher {bank.card.teacher} but the teacher is {expected}"
        )
    bank.card.require_made_for(spec, name="the bank")
    if tuple(bank.images.shape[1:]) != spec.input_shape:
        raise InputError(
            f"the bank holds {'x'.join(map(str, bank.images.shape[1:]))} images but the spec says"
            f" {'x'.join(map(str, spec.input_shape))}"
        )
