"""Short runs of the loops that are compared on CPU and GPU."""

import copy

import torch
from torch import Tensor, nn

from hast.config.finetune import FinetuneConfig
from hast.config.spec import ModelSpec
from hast.config.synthesize import SynthesisConfig
from hast.engine.engine import Engine
from hast.loops.finetune import finetune, start_finetuning
from hast.loops.synthesize import synthesize
from hast.networks.blocks import find_blocks


def synthesis_losses(teacher: nn.Module, spec: ModelSpec, engine: Engine) -> list[float]:
    """Of ten steps of one batch."""
    config = SynthesisConfig(samples=8, batch_size=8, steps=10, learning_rate=0.1)
    return [s.loss.item() for s in synthesize(teacher, None, spec, config, [0], engine)]


def assert_a_snapshot_goes_on(
    student: nn.Module, teacher: nn.Module, spec: ModelSpec, images: Tensor, config: FinetuneConfig
) -> nn.Module:
    """Steps from a restored snapshot have the losses of the run it is of; returns their student."""
    fresh, blocks = copy.deepcopy(student), find_blocks(teacher, spec)
    difficulty = torch.linspace(0, 1, len(images))

    def steps_of(network, state):
        return finetune(network, teacher, images, difficulty, blocks, config, state=state)

    state, losses = start_finetuning(student, difficulty, config), []
    for step in steps_of(student, state):
        losses.append(step.loss.item())
        if len(losses) == 4:
            taken = state.snapshot()
    again = start_finetuning(fresh, difficulty, config)
    again.restore(*taken)
    assert [step.loss.item() for step in steps_of(fresh, again)] == losses[4:]
    return fresh
