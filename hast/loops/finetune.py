"""Fine-tune the student on the bank: distillation, feature alignment, difficulty promotion.

    L(x) = α · T² · KL(f(x) ‖ q(x)) + λ · Σ_blocks mean[(A_q − A_f)²]
    x'   = x + ε · sign(∂L(x) / ∂x)
    total: L(x) + L(x')

The parts are derived in math/distillation.py. One backward pass of L(x) gives both the weights'
gradient and the image's, which the promotion needs; a second one adds L(x'). The teacher is not
under `no_grad`: the image's gradient goes through both networks.

What holds still: BatchNorm stays in eval mode, for the bank's statistics are nearly right and its
batches are small, and the ranges of activations stay as calibrated (with `learned` their scales
train). The last step is the result, or the best point that held-back samples know
(loops/held_back.py) where the last is worse than the start.

Source: HAST, section 3.3.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hast.config.finetune import FinetuneConfig
from hast.engine.distributed import ALONE, Ranks
from hast.engine.engine import PLAIN, Engine, Images, hold_images, place_images
from hast.engine.runtime import device_of, loop, seeded
from hast.errors import InputError, warn
from hast.loops.checks import check_finite, check_result
from hast.loops.finetune_state import FinetuneState
from hast.loops.held_back import HeldBack, is_worse
from hast.loops.order import BatchOrder
from hast.math.augmentation import random_resized_crop
from hast.math.distillation import alignment_loss, distillation_loss, promote_difficulty
from hast.networks.batch_norm import folded_statistics
from hast.networks.blocks import tap_attention
from hast.networks.classifier import require_gradient
from hast.networks.provenance import spec_and_plan
from hast.networks.strides import strides_afterwards
from hast.networks.student import wide_layers_in_fp32

_LOOKS = 4  # at what is held back, beside the last one
_WARM_UP = 0.05  # share of the steps
_CAUSE = "learning_rate too high, or an activation range that is far too small"


class FinetuneStep(NamedTuple):
    loss: Tensor  # of this process's part of the batch, as all below
    distillation: Tensor  # α · T² · KL of the clean images
    alignment: Tensor  # λ · Σ of the clean images
    promoted: Tensor  # L(x'); 0 without promotion
    learning_rate: float
    agreement: float  # on held-back samples, when it was last looked at; NaN where none are


@loop
def finetune(
    student: nn.Module,
    teacher: nn.Module,
    images: Images,
    difficulty: Tensor,
    blocks: Sequence[str],
    config: FinetuneConfig,
    engine: Engine = PLAIN,
    ranks: Ranks = ALONE,
    state: FinetuneState | None = None,
    held: HeldBack | None = None,
) -> Iterator[FinetuneStep]:
    """Fine-tune `student` in place. Its BatchNorm and activation ranges stay as they are.

    Args:
        student: calibrated, eval mode.
        teacher: frozen, eval mode, same device.
        images: (N, C, H, W), normalized pixels, the bank.
        difficulty: (M,) in [0, 1], the weights of `sampling: difficulty`. The first M images are
            trained on.
        blocks: names of the modules to align, see `find_blocks`.
        config: see `FinetuneConfig`.
        engine: how the loss is computed.
        ranks: this process among those that share every batch.
        state: where to start, see `start_finetuning`; it moves with every step.
        held: what is not trained on, to see whether training helps.
    """
    device = device_of(teacher)
    spec, _ = spec_and_plan(student)
    if config.steps:
        require_gradient(teacher, spec.input_shape)
    images = hold_images(images, device)
    state = state or start_finetuning(student, difficulty, config)
    optimizer, schedule, random = state.optimizer, state.schedule, state.random
    names = blocks if config.alignment_weight > 0 else ()
    with (
        strides_afterwards(teacher, spec.input_shape, engine),
        strides_afterwards(student, spec.input_shape, engine),
        tap_attention(student, names) as tap_q,
        tap_attention(teacher, names) as tap_f,
        folded_statistics(teacher),
        wide_layers_in_fp32(student) if engine.bf16 else nullcontext(),
    ):

        def losses_of(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            answer, target = student(x).float(), teacher(x).float()
            distillation = distillation_loss(answer, target, temperature=config.temperature)
            distillation = config.distillation_weight * distillation
            alignment = x.new_zeros(())
            if names:
                bodies = [tap_q.pop(name) for name in names], [tap_f.pop(name) for name in names]
                alignment = config.alignment_weight * alignment_loss(*bodies)
            return distillation + alignment, distillation, alignment

        wrapped = engine.wrap(losses_of, device, recompute=True)
        promote = config.promotion_step > 0
        photograph = spec.photograph(device)
        epsilon = config.promotion_step * photograph[1] if photograph else config.promotion_step

        def gradients(x: Tensor) -> tuple[Tensor, ...]:
            """Of the clean and the promoted images together, into the student's parameters."""
            optimizer.zero_grad()
            x = x.detach().requires_grad_(promote)
            clean = wrapped(x)
            clean[0].backward()  # gives the weights' gradient and, for promotion, the image's
            promoted = x.new_zeros(())
            if promote:
                assert x.grad is not None
                harder = promote_difficulty(x.detach(), x.grad, step=epsilon)
                promoted = wrapped(harder)[0]
                promoted.backward()
            return tuple(loss.detach() for loss in (*clean, promoted))

        every = max(1, config.steps // _LOOKS)
        for step, batch in zip(range(state.step, config.steps), state.order, strict=False):
            if held and step % every == 0:
                state.look(held)
            tap_q.clear()  # the taps belong to the loss, whoever looked meanwhile
            drawn = place_images(images[batch.to(images.device)], device)
            x = random_resized_crop(
                drawn, min_scale=config.min_crop_scale, flip=config.flip, generator=random
            )
            x = ranks.share(x)  # after all processes have drawn the same crops
            clean, distillation, alignment, promoted = wrapped.step(gradients, x)
            ranks.average(p.grad for p in student.parameters() if p.grad is not None)
            loss = clean + promoted
            check_finite(loss, loop="quantize", step=step, steps=config.steps, cause=_CAUSE)
            rate = optimizer.param_groups[0]["lr"]
            optimizer.step()
            schedule.step()
            state.step = step + 1
            yield FinetuneStep(loss, distillation, alignment, promoted, rate, state.agreement)
        check_result(student.parameters(), loop="quantize", steps=config.steps, cause=_CAUSE)
        if held:
            _judge(state.look(held), state, undo=config.keep == "best")
    student.requires_grad_(False)


def _judge(last: Tensor, state: FinetuneState, *, undo: bool) -> None:
    """Say so where training made the student worse, and go back where that is asked for."""
    assert state.first is not None, "look came first"
    assert state.best is not None, "look came first"
    if not is_worse(last, state.first):
        return
    before, after, best = (
        f"{agrees.float().mean():.1%}" for agrees in (state.first, last, state.best.agrees)
    )
    text = f"fine-tuning ended at {after} agreement on held-back samples, from {before} before it"
    if undo:
        state.go_back()
        text += f"; what it was after step {state.step} is kept ({best})"
    else:
        text += "; a smaller quantize.learning_rate or quantize.keep: best prevents that"
    warn(text)


def start_finetuning(
    student: nn.Module, difficulty: Tensor, config: FinetuneConfig
) -> FinetuneState:
    """The state before the first step, of a student on the device where it will be trained."""
    random = seeded(config.seed, "quantize")
    weights = None
    if config.sampling == "difficulty":
        weights = difficulty.cpu().double().clamp(min=1e-3)  # an easy sample stays possible
    order = BatchOrder(len(difficulty), config.batch_size, weights, random)
    return FinetuneState(student, *_optimizer(student, config), order, random)


def _optimizer(
    student: nn.Module, config: FinetuneConfig
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    rate, decay = config.learning_rate, config.weight_decay
    # A learned scale is stored as its logarithm: decay would pull the scale itself towards one.
    scales = [p for name, p in student.named_parameters() if name.endswith("log_scale")]
    others = [p for name, p in student.named_parameters() if not name.endswith("log_scale")]
    of_scales = {"lr": rate * config.scale_rate_factor, "weight_decay": 0.0}
    groups: list[dict[str, Any]] = [{"params": others}, {"params": scales, **of_scales}]
    optimizer: torch.optim.Optimizer
    if config.optimizer == "sgd":
        if scales:
            # Its steps follow the gradients' sizes, which here are sums over all values of a
            # tensor; LSQ's factor on them is left out, for Adam's steps do not depend on it.
            raise InputError(
                "quantize: learned scales need optimizer 'adamw', got 'sgd'; set it (recipe best"
                " does, with its learning_rate and schedule), or take quantizer 'minmax'"
            )
        optimizer = torch.optim.SGD(
            groups, rate, config.momentum, weight_decay=decay, nesterov=True, fused=True
        )
    else:
        optimizer = torch.optim.AdamW(groups, rate, weight_decay=decay, fused=True)
    if config.schedule == "cosine":
        share = partial(_share_of_rate, steps=config.steps)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    return optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, list(config.milestones))


def _share_of_rate(step: int, *, steps: int) -> float:
    """Up in a straight line, then down along a cosine.

    The first steps of Adam are as long as the rate, whatever the gradient is: without a warm-up
    they undo what calibration and reconstruction decided.
    """
    warm = min(1.0, (step + 1) / max(1.0, _WARM_UP * steps))
    return warm * (1 + math.cos(math.pi * step / max(1, steps))) / 2
