"""Make a student that has its quantizers and their ranges, and no training yet."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from torch import nn

from hast.config.bit_width import BitWidth
from hast.config.calibrate import CalibrationConfig
from hast.config.layers import PlanConfig
from hast.config.spec import ModelSpec
from hast.engine.engine import Images
from hast.engine.progress import drain
from hast.engine.runtime import device_of
from hast.loops.calibrate import bank_batches, calibrate, generator_batches
from hast.networks.biases import round_biases
from hast.networks.coverage import Coverage, plan_coverage, warn_of_full_precision
from hast.networks.generator import Generator
from hast.networks.plan import QuantizationPlan, plan_quantization
from hast.networks.provenance import spec_and_plan
from hast.networks.student import prepare_student


class CalibratedStudent(NamedTuple):
    """A student before fine-tuning."""

    network: nn.Module
    plan: QuantizationPlan
    coverage: Coverage  # how much of it is low-bit


def calibrate_student(
    teacher: nn.Module,
    spec: ModelSpec,
    width: BitWidth,
    rules: PlanConfig,
    config: CalibrationConfig,
    *,
    images: Images | None = None,
    generator: Generator | None = None,
    allocation: Mapping[str, int] | None = None,
    show: bool = True,
) -> CalibratedStudent:
    """Copy the teacher, put quantizers on the copy and set their ranges.

    Args:
        teacher: frozen, eval mode.
        spec: what it expects and answers.
        width: of layers that no rule says otherwise about.
        rules: what is quantized, and how.
        config: see `CalibrationConfig`.
        images: (N, C, H, W), normalized pixels, where `config.images` is `bank`.
        generator: on the teacher's device, where `config.images` is `generator`.
        allocation: weight bits by layer, where they were distributed by sensitivity.
        show: show progress.
    """
    plan = plan_quantization(teacher, spec, width, rules, allocation)
    student = prepare_student(teacher, spec, plan, range_momentum=config.range_momentum)
    covered = plan_coverage(teacher, spec, plan)
    warn_of_full_precision(covered, width)
    if config.images == "bank":
        assert images is not None, "a bank's images set the ranges"
        batches = partial(bank_batches, images, config, device_of(teacher))
    else:
        assert generator is not None, "a generator's images set the ranges"
        batches = partial(generator_batches, generator, config)
    records = calibrate(student, teacher, batches, config)
    drain(records, total=config.records, label=f"calibrate {width}", show=show)
    round_biases(student)
    return CalibratedStudent(student, spec_and_plan(student)[1], covered)
