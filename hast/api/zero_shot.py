"""From a teacher to a student in one call: with bits that are given, or with those that hold."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from hast.api.samples import Device, frozen_copy, synthesize, train_generator
from hast.api.students import quantize
from hast.bank.record import Bank
from hast.bank.stored import StoredBank
from hast.config.finetune import FinetuneConfig
from hast.config.recipes import Settings
from hast.config.section import parse_section
from hast.config.spec import ModelSpec
from hast.errors import InputError
from hast.loops.evaluate import joined, predict
from hast.loops.held_back import HeldBack
from hast.math.intervals import mean_margin, paired_drop
from hast.networks.generator import Generator
from hast.networks.size import packed_size
from hast.pipeline.search import Candidate, Trial, search
from hast.pipeline.settings import network_settings


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
    """Synthesize a bank and make a low-bit student, in one call, with the numbers that `hast init`
    would write.

    Args:
        teacher, spec, weight_bits, act_bits, seed, device, progress: as of `hast.quantize`.
        recipe: `hast` is the paper, `best` what did best at the same compute; see
            `hast.config.recipes`.
        size: `quick` ends in minutes on two cores, `paper` is the paper's.
        synthesis: settings of `synthesize` that differ from the recipe's.
        settings: settings of `quantize` that differ from the recipe's.

    Raises:
        InputError: a wrong setting.
    """
    source = frozen_copy(teacher, spec, device)
    values = network_settings(source, spec, recipe=recipe, size=size, seed=seed)
    values["synthesize"] |= synthesis or {}
    for section, argument in _ARGUMENTS.items():
        values[section] |= settings.pop(argument, {})
    if "steps" in settings:
        values["quantize"].pop("milestones")  # they belong to the recipe's steps
    values["quantize"] |= settings
    generator, bank = make_samples(teacher, spec, values, device=device, progress=progress)
    return quantize(
        teacher, spec, bank, weight_bits=weight_bits, act_bits=act_bits, generator=generator,
        device=device, progress=progress, **arguments_of(values),
    )  # fmt: skip


_ARGUMENTS = {"layers": "layers", "calibrate": "calibration", "reconstruct": "reconstruction"}


def arguments_of(values: Settings) -> dict[str, Any]:
    """What `hast.quantize` takes, of the sections of a params file."""
    return {name: values[section] for section, name in _ARGUMENTS.items()} | values["quantize"]


def make_samples(
    teacher: nn.Module, spec: ModelSpec, values: Settings, **common: Any
) -> tuple[Generator | None, Bank]:
    """Of the sections of a params file: the generator, where something uses it, and the bank."""
    generator = None
    if "generator" in (values["synthesize"]["init"], values["calibrate"]["images"]):
        generator = train_generator(teacher, spec, **values["generator"], **common)
    bank = synthesize(teacher, spec, generator=generator, **values["synthesize"], **common)
    return generator, bank


# What a student loses, a share, and half of its 95 % interval.
Drop = Callable[[nn.Module], tuple[float, float]]


class Found(NamedTuple):
    """The smallest student that holds, and all that were tried, in their order."""

    best: Trial
    trials: tuple[Trial, ...]


def quantize_within(
    teacher: nn.Module,
    spec: ModelSpec,
    bank: Bank | StoredBank,
    *,
    max_drop: float,
    attempts: int = 8,
    drop: Drop | None = None,
    layers: Mapping[str, Any] | None = None,
    device: Device = None,
    progress: bool = True,
    **settings: Any,
) -> Found:
    """Find the fewest bits, layer by layer, with which a student loses no more than is allowed.

    Args:
        teacher, spec, bank, layers, device, progress: as of `hast.quantize`.
        max_drop: largest drop, in [0, 1).
        attempts: candidates to make at most.
        drop: what a student loses; by default `held_back_drop`. With `top1_drop` it is selected by
            test images, and its accuracy on them is no longer an independent figure.
        settings: other arguments of `hast.quantize`, bits excepted.

    Raises:
        InputError: a wrong setting, nothing is held back, or no candidate holds.
    """
    if not 0 <= max_drop < 1:
        raise InputError(f"max_drop must lie in [0, 1), got {max_drop}")
    source, rules = frozen_copy(teacher, spec, device), dict(layers or {})
    measured = drop or held_back_drop(source, bank, settings)

    def attempt(candidate: Candidate) -> Trial:
        narrower = [override.model_dump() for override in candidate.overrides]
        student = quantize(
            teacher, spec, bank,
            weight_bits=candidate.bits.weight_bits, act_bits=candidate.bits.act_bits,
            layers=rules | {"overrides": [*rules.get("overrides", ()), *narrower]},
            device=device, progress=progress, **settings,
        )  # fmt: skip
        lost, margin = measured(student)
        return Trial(candidate, student, packed_size(student), lost, margin, lost <= max_drop)

    trials = tuple(search(attempt, source, bank.images, attempts=attempts))
    holding = [trial for trial in trials if trial.holds]
    if not holding:
        nearest = min(trials, key=lambda trial: trial.drop)
        raise InputError(
            f"max_drop {max_drop:.2%}: none of {len(trials)} candidates holds; {nearest.candidate}"
            f" comes nearest and loses {nearest.drop:.2%}; allow more, or more attempts"
        )
    return Found(holding[-1], trials)


def held_back_drop(
    teacher: nn.Module, bank: Bank | StoredBank, settings: Mapping[str, Any]
) -> Drop:
    """Measures the share of samples that nobody trains on, under the crops of fine-tuning, to which
    a student gives another answer than the teacher: on such images it loses no more accuracy.

    Args:
        teacher: frozen, eval mode.
        bank: the one that students are made on.
        settings: those of `hast.quantize`; what is held back is decided by them.

    Raises:
        InputError: nothing is held back.
    """
    known = {k: v for k, v in settings.items() if k in FinetuneConfig.model_fields}
    config = parse_section(known, FinetuneConfig, name="quantize")
    held = bank.images[config.trained_on(len(bank.images)) :]
    if not len(held):
        raise InputError(
            f"quantize.held_back: {config.held_back:g} of {len(bank.images)} samples is none, but"
            " agreement needs samples that nobody trains on; give more samples, or hold back more"
        )
    views = HeldBack(teacher, held, config)

    def drop(student: nn.Module) -> tuple[float, float]:
        lost = 1 - views.agreement(student).float().mean(0)
        return lost.mean().item(), mean_margin(lost.tolist())

    return drop


def top1_drop(teacher: nn.Module, loader: Iterable[tuple[Tensor, Tensor]]) -> Drop:
    """Measures the top-1 that a student loses against its teacher.

    Args:
        teacher: eval mode.
        loader: normalized images (N, C, H, W) and labels (N,); read once for each student.
    """

    def right(network: nn.Module) -> Tensor:
        said = joined(predict({"network": network}, loader))
        return said.by_network["network"].answer == said.labels

    before = right(teacher)

    def drop(student: nn.Module) -> tuple[float, float]:
        return paired_drop(before, right(student))

    return drop
