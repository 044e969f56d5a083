"""Students, and how good they are."""

import copy
from collections.abc import Iterable, Mapping, Sized
from typing import Any

from torch import Tensor, nn

from hast.api.samples import Device, frozen_copy
from hast.bank.record import Bank
from hast.bank.stored import StoredBank
from hast.config.bit_width import BitWidth
from hast.config.calibrate import CalibrationConfig
from hast.config.finetune import FinetuneConfig
from hast.config.layers import PlanConfig
from hast.config.reconstruct import ReconstructionConfig
from hast.config.section import parse_section
from hast.config.spec import ModelSpec
from hast.engine.engine import place
from hast.engine.progress import track
from hast.engine.runtime import device_of
from hast.errors import InputError
from hast.loops.evaluate import TOGETHER, Evaluation, joined, predict
from hast.networks.batch_norm import freeze
from hast.networks.fingerprint import fingerprint, rounding_between
from hast.networks.generator import Generator
from hast.networks.given import plain_copy
from hast.pipeline.calibrate import calibrate_student
from hast.pipeline.finetune import finetune_student
from hast.pipeline.reconstruct import reconstruct_student


def calibrate(
    teacher: nn.Module,
    spec: ModelSpec,
    bank: Bank | StoredBank,
    *,
    weight_bits: int = 8,
    act_bits: int = 8,
    seed: int = 0,
    layers: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Any] | None = None,
    reconstruction: Mapping[str, Any] | None = None,
    generator: Generator | None = None,
    device: Device = None,
    progress: bool = True,
) -> nn.Module:
    """Make a low-bit student of the teacher without training it: post-training quantization.

    Args:
        teacher: full-precision classifier.
        spec: what it expects and answers.
        bank: samples made for this teacher: in memory, or left in their files (`StoredBank`).
        weight_bits: code width, 2..8.
        act_bits: code width, 2..8, or 32, which leaves activations as they are.
        seed: of ranges and reconstruction.
        layers: settings of `hast.config.layers.PlanConfig`, such as `{"first_last_bits": 8}`; the
            placement is `inputs` unless they say otherwise.
        calibration: settings of `hast.config.calibrate.CalibrationConfig`.
        reconstruction: settings of `hast.config.reconstruct.ReconstructionConfig`, such as
            `{"steps": 200}`; it needs learned scales, `layers={"quantizer": "learned"}`.
        generator: its images set the activation ranges, as in the paper; without one the bank's do.
        device: where to compute; by default where the teacher is.
        progress: show a bar, or lines where there is no terminal.

    Returns:
        The student: the teacher's class with quantizers on its modules, in eval mode.

    Raises:
        InputError: a wrong setting, or a bank that was made for another teacher.
    """
    source = frozen_copy(teacher, spec, device)
    check_bank(bank, source, spec)
    placed = {"placement": "inputs", **(layers or {})}
    rules = parse_section(placed, PlanConfig, name="layers")
    width = BitWidth.parse(f"w{weight_bits}a{act_bits}")
    images = "bank" if generator is None else "generator"
    ranges = parse_section(
        {"seed": seed, "images": images, **(calibration or {})}, CalibrationConfig,
        name="calibration",
    )  # fmt: skip
    if ranges.images == "generator":
        if generator is None:
            raise InputError("calibration: images 'generator' needs a generator, got none")
        generator = place(copy.deepcopy(generator), device_of(source))
    blocks = parse_section(
        {"seed": seed, **(reconstruction or {})}, ReconstructionConfig, name="reconstruction"
    )
    student = calibrate_student(
        source, spec, width, rules, ranges,
        images=bank.images, generator=generator, show=progress,
    ).network  # fmt: skip
    reconstruct_student(
        student, source, bank.images, blocks,
        label=f"reconstruct {width}", show=progress,
    )  # fmt: skip
    return student.requires_grad_(False)


def quantize(
    teacher: nn.Module,
    spec: ModelSpec,
    bank: Bank | StoredBank,
    *,
    weight_bits: int = 4,
    act_bits: int = 4,
    steps: int = 2000,
    seed: int = 0,
    layers: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Any] | None = None,
    reconstruction: Mapping[str, Any] | None = None,
    generator: Generator | None = None,
    device: Device = None,
    progress: bool = True,
    **settings: Any,
) -> nn.Module:
    """Make a low-bit student of the teacher and fine-tune it on a bank.

    Args:
        teacher, spec, bank, weight_bits, act_bits, layers, calibration, reconstruction, generator,
            device, progress: as of `calibrate`.
        steps: fine-tuning steps; the rate drops to a tenth at a half and at three quarters. With 0
            the student stays as it was calibrated.
        seed: of ranges, order of samples and augmentation.
        settings: other fields of `hast.config.finetune.FinetuneConfig`.

    Returns:
        The student, in eval mode.

    Raises:
        InputError: a wrong setting, or a bank that was made for another teacher.
    """
    milestones = sorted({steps // 2, steps * 3 // 4} - {0})
    values = {"steps": steps, "seed": seed, "milestones": milestones, **settings}
    config = parse_section(values, FinetuneConfig, name="quantize")
    blocks = parse_section(dict(reconstruction or {}), ReconstructionConfig, name="reconstruction")
    source = frozen_copy(teacher, spec, device)
    check_bank(bank, source, spec)
    learned_from = min(blocks.samples, config.trained_on(len(bank.images)))
    reconstruction = {**(reconstruction or {}), "samples": learned_from}
    student = calibrate(
        source, spec, bank, weight_bits=weight_bits, act_bits=act_bits, seed=seed, layers=layers,
        calibration=calibration, reconstruction=reconstruction, generator=generator,
        progress=progress,
    )  # fmt: skip
    difficulty = None
    if config.sampling == "difficulty":
        batches = zip(bank.images.split(TOGETHER), bank.labels.split(TOGETHER), strict=True)
        said = joined(predict({"student": student}, batches))
        difficulty = said.by_network["student"].difficulty
    finetune_student(
        student.requires_grad_(True), source, spec, bank.images, config, difficulty=difficulty,
        label=f"quantize w{weight_bits}a{act_bits}", show=progress,
    )  # fmt: skip
    return student


def evaluate(
    network: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    teacher: nn.Module | None = None,
    device: Device = None,
    progress: bool = True,
) -> Evaluation:
    """Measure a network on labelled images, in eval mode and fp32.

    Args:
        network: a teacher or a student.
        loader: normalized images (N, C, H, W) and labels (N,).
        teacher: the network to which `agreement` is measured; by default `network` itself.
        device: where to compute; by default where the network is.
        progress: show a bar, or lines where there is no terminal.

    Returns:
        A record with `top1`, `top5` and `agreement`, in [0, 1], and the number of `samples`.

    Raises:
        InputError: the loader is empty.
    """
    copied = freeze(plain_copy(network, to_quantize=False))
    device = device or device_of(copied)
    networks = {"network": copied.to(device)}
    if teacher is not None:
        networks["teacher"] = freeze(plain_copy(teacher, to_quantize=False)).to(device)
    total = len(loader) if isinstance(loader, Sized) else None
    said = predict(networks, loader)
    records = [*track(said, total=total, label="evaluate", show=progress)]
    if not records:
        raise InputError("evaluate: the loader must yield at least one batch, it is empty")
    return joined(records).evaluation("network", reference=[*networks][-1])


def check_bank(bank: Bank | StoredBank, teacher: nn.Module, spec: ModelSpec) -> None:
    """Check that a bank is one, and was made for this teacher.

    Raises:
        InputError: with both fingerprints, or both values of the spec.
    """
    if not isinstance(bank, (Bank, StoredBank)):
        raise InputError(
            f"a bank must be what hast.synthesize or hast.open_bank returns, got {bank!r:.80}"
        )
    found, made_for = fingerprint(teacher.state_dict()), bank.card.teacher
    if made_for != found:
        why = rounding_between(made_for, teacher.state_dict())
        raise InputError(
            f"the bank was made for teacher {made_for} but the teacher is {found}{why}"
        )
    bank.card.require_made_for(spec, name="the bank")
    if tuple(bank.images.shape[1:]) != spec.input_shape:
        raise InputError(
            f"the bank holds {'x'.join(map(str, bank.images.shape[1:]))} images but the spec says"
            f" {'x'.join(map(str, spec.input_shape))}"
        )
