"""Train a calibrated student on a bank."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hast.config.finetune import FinetuneConfig
from hast.config.spec import ModelSpec
from hast.engine.distributed import ALONE, Ranks
from hast.engine.engine import Engine, Images
from hast.engine.progress import track
from hast.files.partial import CheckpointFile
from hast.files.tables import Curve
from hast.loops.finetune import FinetuneStep, finetune, start_finetuning
from hast.loops.held_back import HeldBack
from hast.networks.biases import round_biases
from hast.networks.blocks import find_blocks
from hast.pipeline.work import engine_for

SHOWN = ("loss", "distillation", "alignment")


class Finetuned(NamedTuple):
    """What a fine-tuning leaves beside the student."""

    curve: Curve  # of `FinetuneStep`
    kept_step: int  # the last one, or the best of those that were looked at


def finetune_student(
    student: nn.Module,
    teacher: nn.Module,
    spec: ModelSpec,
    images: Images,
    config: FinetuneConfig,
    *,
    difficulty: Tensor | None = None,
    engine: Engine | None = None,
    ranks: Ranks = ALONE,
    file: CheckpointFile | None = None,
    after_step: Callable[[int], object] = lambda done: None,
    label: str = "quantize",
    show: bool = True,
) -> Finetuned:
    """Fine-tune a calibrated student in place.

    Args:
        student: see `calibrate_student`.
        teacher: frozen, eval mode, same device.
        spec: what it expects and answers.
        images: (N, C, H, W), normalized pixels, the bank.
        config: see `FinetuneConfig`.
        difficulty: (N,) in [0, 1], of the images, for `sampling: difficulty`.
        engine: by default the one for this much work.
        ranks: this process among those that share every batch; the first one writes and shows.
        file: where what was killed goes on, and is kept now and then; the caller removes it.
        after_step: called with the number of steps that are done.
        label: of the progress.
        show: show progress.
    """
    blocks = find_blocks(teacher, spec, config.alignment_modules)
    assert config.sampling == "uniform" or difficulty is not None, "nobody measured the difficulty"
    weights = torch.ones(len(images)) if difficulty is None else difficulty
    count = config.trained_on(len(images))
    weights = weights[:count]
    engine = engine or engine_for(config, teacher, spec)
    state, curve = start_finetuning(student, weights, config), Curve(config.steps, FinetuneStep)
    saved = file.load() if file else None
    if saved:
        state.restore(saved.tensors, saved.values)
        curve.restore(saved.values["curve"], state.step)
    first, tells = ranks.rank == 0, config.steps and count < len(images)
    held = HeldBack(teacher, images[count:], config) if tells else None
    steps = finetune(
        student, teacher, images, weights, blocks, config, engine, ranks, state, held
    )  # fmt: skip
    shown = track(
        steps, total=config.steps, done=state.step, label=label, fields=SHOWN, show=show and first
    )
    for step in shown:
        curve.add(step)
        after_step(state.step)
        if file and first and file.is_due() and state.step < config.steps:
            tensors, numbers = state.snapshot()
            file.save(tensors, numbers | {"curve": curve.saved()})
    round_biases(student)
    return Finetuned(curve, state.step)
