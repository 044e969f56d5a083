"""Train a calibrated student on a bank."""

import torch
from torch import Tensor, nn

from hast.config.finetune import FinetuneConfig
from hast.config.spec import ModelSpec
from hast.engine.engine import Engine, Images
from hast.engine.progress import drain
from hast.loops.finetune import finetune
from hast.loops.held_back import HeldBack
from hast.loops.profile import score
from hast.networks.biases import round_biases
from hast.networks.blocks import find_blocks
from hast.pipeline.work import engine_for


def finetune_student(
    student: nn.Module,
    teacher: nn.Module,
    spec: ModelSpec,
    images: Images,
    config: FinetuneConfig,
    *,
    labels: Tensor | None = None,
    engine: Engine | None = None,
    label: str = "quantize",
    show: bool = True,
) -> None:
    """Fine-tune a calibrated student in place.

    Args:
        student: see `calibrate_student`.
        teacher: frozen, eval mode, same device.
        spec: what it expects and answers.
        images: (N, C, H, W), normalized pixels, the bank.
        config: see `FinetuneConfig`.
        labels: (N,), of the images, by which `sampling: difficulty` measures them.
        engine: by default the one for this much work.
        label: of the progress.
        show: show progress.
    """
    blocks = find_blocks(teacher, spec, config.alignment_modules)
    trained_on = config.trained_on(len(images))
    difficulty = torch.ones(trained_on)
    if config.sampling == "difficulty":
        assert labels is not None, "difficulty is measured by labels"
        difficulty = torch.cat([*score(student, images, labels)])[:trained_on]
    engine = engine or engine_for(config, teacher, spec)
    held = held_back_part(teacher, images, config)
    records = finetune(student, teacher, images, difficulty, blocks, config, engine, held=held)
    drain(records, total=config.steps, label=label, fields=("loss",), show=show)
    round_biases(student)


def held_back_part(teacher: nn.Module, images: Images, config: FinetuneConfig) -> HeldBack | None:
    """The samples of a bank that are not trained on, the last ones; None where there are none, or
    no training."""
    first = config.trained_on(len(images))
    if not config.steps or first == len(images):
        return None
    return HeldBack(teacher, images[first:], config)
