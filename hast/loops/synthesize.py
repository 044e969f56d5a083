"""Hard sample synthesis: optimise pixels until the teacher's BatchNorm statistics and hard labels
are matched.

    L_syn = L_BNS + beta * L_hard        Adam on the pixels of one batch, reduce-on-plateau

L_BNS (math/statistics.py) makes a batch look like training data, L_hard (math/hardness.py) gives it
classes without making it easy. The two pull apart: beta decides how far, and after all steps most
samples are easy for the teacher again; what stays hard is hard for the *student* (docs/method.md).

The unit is a batch, for BNS has no meaning for one image. Batch k depends on (config, teacher,
generator, k) alone: its noise has a stream of its own, drawn on the CPU. So any process may make
any batch, in any order, again after a crash, and the bank has the same bytes.

The teacher's parameters are frozen, but it is not under `no_grad`: the gradient has to pass through
it to the pixels. Pixels are in the teacher's normalized space and may leave the range of a
photograph; keeping them in it was not seen to help the student (docs/results.md). Where the network
normalizes them itself, what is optimised is normalized all the same: a rate of 0.5 would be
nothing in [0, 255], and too much in [0, 1].

Source: HAST, section 3.2.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hast.config.spec import ModelSpec
from hast.config.synthesize import SynthesisConfig
from hast.engine.engine import PLAIN, Engine, Wrapped, place_images
from hast.engine.runtime import device_of, loop, seeded
from hast.errors import InputError
from hast.loops.checks import check_finite, check_result
from hast.math.augmentation import random_resized_crop
from hast.math.hardness import hard_sample_loss
from hast.math.noise import photograph_like, pink_noise, white_noise
from hast.math.plateau import Plateau, reduce_on_plateau
from hast.math.statistics import bns_loss
from hast.networks.batch_norm import folded_statistics, tap_batch_norm_inputs
from hast.networks.classifier import require_batch_norm
from hast.networks.generator import Generator
from hast.networks.strides import strides_afterwards

_CAUSE = "learning_rate too high, or NaN in the teacher's weights"


class SynthesisStep(NamedTuple):
    """One iterate; the last one of a batch is the result."""

    batch: int
    is_last: bool  # of its batch
    images: Tensor  # (B, C, H, W), normalized pixels, detached; before the last, those of the loss
    labels: Tensor  # (B,)
    loss: Tensor
    bns: Tensor
    hard: Tensor


def batch_sizes(config: SynthesisConfig) -> list[int]:
    """Sizes of the batches that make up the bank; the last one may be smaller."""
    full, rest = divmod(config.samples, config.batch_size)
    return [config.batch_size] * full + [rest] * (rest > 0)


@loop
def synthesize(
    teacher: nn.Module,
    generator: Generator | None,
    spec: ModelSpec,
    config: SynthesisConfig,
    batches: Iterable[int],
    engine: Engine = PLAIN,
) -> Iterator[SynthesisStep]:
    """Optimise the given batches one after the other.

    L = L_BNS + β · L_hard, Adam on the pixels, learning rate reduced on plateaus. Batch k depends
    only on (config, teacher, generator, k), not on the other batches.

    Args:
        teacher: frozen, eval mode.
        generator: seeds the pixels where `config.init` is `generator`, else unused.
        spec: image shape and classes.
        config: see `SynthesisConfig`.
        batches: indices into `batch_sizes(config)`.
        engine: how the loss is computed.

    Raises:
        InputError: `init` is `generator` but there is none, or the teacher has no BatchNorm.
        NonFiniteLossError: the loss became NaN or infinite.
    """
    if config.init == "generator" and generator is None:
        raise InputError("synthesize: init 'generator' needs a generator, got none")
    require_batch_norm(teacher, spec.input_shape)
    device = device_of(teacher)
    _, std = spec.channels(device)
    photograph = spec.photograph(device)
    with (
        strides_afterwards(teacher, spec.input_shape, engine),
        tap_batch_norm_inputs(teacher) as tap,
        folded_statistics(teacher),
    ):

        def losses_of(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            logits = teacher(images).float()
            bns = bns_loss(tap, relative=config.bns == "relative")
            tap.clear()
            hard = hard_sample_loss(logits, labels, gamma=config.gamma)
            return bns + config.hard_weight * hard, bns, hard

        def see(variables: Tensor) -> Tensor:
            images = variables
            if config.space == "spectrum":
                images = place_images(photograph_like(variables, std), device)
            elif photograph:
                images = variables * photograph[1]
            return images + photograph[0] if photograph else images

        wrapped = engine.wrap(losses_of, device)  # once: compiled code serves all batches
        for index in batches:
            random = seeded(config.seed, "synthesize", index)
            start, labels = _start(index, generator, spec, config, random, device)
            if photograph and config.space == "pixels" and config.init == "generator":
                start = (start - photograph[0]) / photograph[1]
            yield from _optimise(index, start, labels, see, wrapped, config, random)


def _start(
    index: int,
    generator: Generator | None,
    spec: ModelSpec,
    config: SynthesisConfig,
    random: torch.Generator,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """What the optimizer begins with and labels of a batch, drawn on the CPU."""
    size = batch_sizes(config)[index]
    labels = torch.randint(spec.num_classes, (size,), generator=random).to(device)
    if config.space == "spectrum":
        images = white_noise(size, spec.input_shape, random)
    elif config.init == "generator" and generator is not None:
        with torch.no_grad():
            images = generator.sample(labels, random)
    elif config.init == "pink":
        images = pink_noise(size, spec.input_shape, random)
    else:
        images = torch.randn(size, *spec.input_shape, generator=random)
    return place_images(images, device), labels


def _optimise(
    index: int,
    variables: Tensor,
    labels: Tensor,
    see: Callable[[Tensor], Tensor],
    losses_of: Wrapped[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
    config: SynthesisConfig,
    random: torch.Generator,
) -> Iterator[SynthesisStep]:
    loop = f"synthesize, batch {index}"
    variables.requires_grad_(True)
    plateau = Plateau.start(config.learning_rate, variables.device)
    # Fused, because only that Adam takes its rate from the device.
    optimizer = torch.optim.Adam([variables], lr=plateau.rate.clone(), fused=True)

    def gradients(before: Tensor) -> tuple[Tensor, ...]:
        optimizer.zero_grad()
        random.set_state(before)
        views = images = see(variables)
        if torch.rand((), generator=random) < config.augment_probability:
            views = random_resized_crop(
                images, min_scale=config.min_crop_scale, flip=True, generator=random
            )
        losses = losses_of(views, labels)
        losses[0].backward()
        return tuple(x.detach() for x in (*losses, images))

    for step in range(config.steps):
        loss, bns, hard, images = losses_of.step(gradients, random.get_state())
        check_finite(loss, loop=loop, step=step, steps=config.steps, cause=_CAUSE)
        optimizer.step()
        plateau = reduce_on_plateau(
            plateau, loss, patience=config.patience, min_rate=config.min_learning_rate
        )
        optimizer.param_groups[0]["lr"].copy_(plateau.rate)
        is_last = step == config.steps - 1
        if is_last:
            images = see(variables).detach()
            check_result([images], loop=loop, steps=config.steps, cause=_CAUSE)
        yield SynthesisStep(index, is_last, images, labels, loss, bns, hard)
