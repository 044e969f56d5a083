"""Set the student's activation ranges on synthetic images.

A weight's range can be read off the weight; an activation's has to be seen. So the student runs a
few batches with quantized weights and exact activations (with quantized ones, each layer would see
the errors of ranges that are not set yet) while every quantizer watches its input: a moving average
of min and max, or a sample of values for the scale with the least squared error. Then the ranges
are frozen.

Whose images: the paper's code takes fresh ones of a generator, the recipe `best` the bank's. They
differ in what is too large to be rare: a range from images unlike those of fine-tuning wastes codes
or clips.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from hast.config.calibrate import CalibrationConfig
from hast.engine.engine import Images, place_images
from hast.engine.runtime import device_of, loop, seeded
from hast.math.statistics import corrected_statistics
from hast.networks.batch_norm import tap_batch_norm_inputs
from hast.networks.generator import Generator
from hast.networks.student import set_mode


def generator_batches(generator: Generator, config: CalibrationConfig) -> Iterator[Tensor]:
    """Images (B, C, H, W) of random classes, on the generator's device."""
    device = device_of(generator)
    num_classes = generator.embedding.num_embeddings
    for index in range(config.batches):
        random = seeded(config.seed, "calibrate", index)
        labels = torch.randint(num_classes, (config.batch_size,), generator=random).to(device)
        with torch.no_grad():
            images = generator.sample(labels, random)
        yield images  # outside: a suspended no_grad would reach whoever consumes this


def bank_batches(
    images: Images, config: CalibrationConfig, device: torch.device
) -> Iterator[Tensor]:
    """Random draws (B, C, H, W), on `device`, from a bank's images (N, C, H, W)."""
    for index in range(config.batches):
        random = seeded(config.seed, "calibrate", index)
        drawn = images[torch.randint(len(images), (config.batch_size,), generator=random)]
        yield place_images(drawn, device)


@loop
def calibrate(
    student: nn.Module,
    teacher: nn.Module,
    batches: Callable[[], Iterable[Tensor]],
    config: CalibrationConfig,
) -> Iterator[None]:
    """Set the ranges of the student and, where `config` asks for it, correct its BatchNorm.

    Args:
        student: as `prepare_student` makes it.
        teacher: frozen, eval mode.
        batches: starts one round over the images (B, C, H, W).
        config: see `CalibrationConfig`.

    Yields:
        `config.records` times.
    """
    yield from observe_ranges(student, batches())
    if config.correct_batch_norm:
        yield from correct_batch_norm(student, teacher, batches(), momentum=config.range_momentum)


def observe_ranges(student: nn.Module, batches: Iterable[Tensor]) -> Iterator[None]:
    """Observe every batch, then freeze the ranges.

    While it observes, the student computes with quantized weights and exact activations.
    """
    set_mode(student, "observe")
    for images in batches:
        with torch.no_grad():
            student(images)
        yield
    set_mode(student, "quantize")


def correct_batch_norm(
    student: nn.Module, teacher: nn.Module, batches: Iterable[Tensor], *, momentum: float
) -> Iterator[None]:
    """Move the student's BatchNorm statistics by what quantization changes at each layer's input.

    A moving average over the batches: deeper layers follow as shallower ones are corrected.

    Args:
        student: with ranges, eval mode.
        teacher: full precision, eval mode.
        batches: images (B, C, H, W), normalized pixels.
        momentum: weight of the old average when a batch arrives, in [0, 1).
    """
    with tap_batch_norm_inputs(student) as tap_q, tap_batch_norm_inputs(teacher) as tap_f:
        for images in batches:
            with torch.no_grad():
                student(images)
                teacher(images)
                for own, full in zip(tap_q, tap_f, strict=True):
                    wanted = corrected_statistics(full.running, before=full.batch, after=own.batch)
                    own.running.mean.lerp_(wanted.mean, 1 - momentum)
                    own.running.var.lerp_(wanted.var, 1 - momentum)
            yield
