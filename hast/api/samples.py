"""What students are made on: a bank, from a teacher alone or of pictures, and a generator."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hast.bank.pictures import import_pictures as write_bank
from hast.bank.record import Bank
from hast.bank.stored import StoredBank
from hast.config.bank import BankConfig, Dtype
from hast.config.generator import GeneratorConfig
from hast.config.section import parse_section
from hast.config.spec import ModelSpec
from hast.config.synthesize import SynthesisConfig
from hast.engine.engine import place, select_device
from hast.engine.progress import drain
from hast.engine.runtime import device_of
from hast.errors import InputError
from hast.loops.train_generator import build_generator
from hast.loops.train_generator import train_generator as train
from hast.networks.batch_norm import freeze
from hast.networks.classifier import check_classifier, require_batch_norm
from hast.networks.generator import Generator
from hast.networks.given import plain_copy
from hast.pipeline.bank import make_bank
from hast.pipeline.work import engine_for

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
        settings: other fields of `hast.config.generator.GeneratorConfig`.

    Raises:
        InputError: a wrong setting, or a teacher without BatchNorm.
    """
    source = frozen_copy(teacher, spec, device)
    require_batch_norm(source, spec.input_shape)
    values = {"steps": steps, "seed": seed, **settings}
    config = parse_section(values, GeneratorConfig, name="train_generator")
    generator = build_generator(spec, config).to(device_of(source))
    records = train(generator, source, config, engine_for(config, source, spec))
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
        settings: other fields of `hast.config.synthesize.SynthesisConfig`.

    Returns:
        A bank on the CPU; `hast.save_bank` writes it.

    Raises:
        InputError: a wrong setting, or a teacher without BatchNorm: see `import_pictures`.
    """
    source = frozen_copy(teacher, spec, device)
    values = {"samples": samples, "steps": steps, "seed": seed, **settings}
    config = parse_section(values, SynthesisConfig, name="synthesize")
    start = None
    if config.init == "generator" and generator is not None:
        start = place(copy.deepcopy(generator), device_of(source))
    return make_bank(source, spec, config, dtype=dtype, generator=start, show=progress)


def import_pictures(
    folder: Path | str,
    out: Path | str,
    teacher: nn.Module,
    spec: ModelSpec,
    *,
    dtype: Dtype = "uint8",
    crop_fraction: float = 1.0,
    overwrite: bool = False,
    device: Device = None,
    progress: bool = True,
) -> StoredBank:
    """Make a bank of a folder of unlabelled pictures, for any classifier.

    Args:
        folder: holds the pictures, however deep.
        out: folder of the bank.
        teacher: full-precision classifier, with or without BatchNorm; its answers are the labels.
        spec: what it expects and answers.
        dtype: of the stored pixels.
        crop_fraction: pictures are scaled to cover the input divided by this share, and the centre
            is cut out; 0.875 is usual at 224 x 224.
        overwrite: another bank may be at `out`.
        device: where to compute; by default where the teacher is.
        progress: show a bar, or lines where there is no terminal.

    Returns:
        The bank, left in its files.

    Raises:
        InputError: there are no pictures, one cannot be read, or `out` is there.
    """
    config = parse_section(
        {"dtype": dtype, "crop_fraction": crop_fraction}, BankConfig, name="import_pictures"
    )
    source = frozen_copy(teacher, spec, device)
    return write_bank(
        Path(folder), Path(out), source, spec, config, overwrite=overwrite, show=progress
    )


def frozen_copy(teacher: nn.Module, spec: ModelSpec, device: Device) -> nn.Module:
    """A copy to compute with, see `plain_copy`; `teacher` stays as it is."""
    if not isinstance(spec, ModelSpec):
        raise InputError(f"spec must be a hast.ModelSpec, got {spec!r:.80}")
    source = freeze(plain_copy(teacher))
    where = device_of(source) if device is None else select_device(str(device))
    place(source, where, spec.input_shape)
    check_classifier(source, spec)
    return source
