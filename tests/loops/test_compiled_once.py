"""The compiler takes longer than many steps, so no loop calls it twice for the same function."""

import functools

import pytest
import torch
from students import observed
from torch._dynamo.utils import counters

from hast.config.finetune import FinetuneConfig
from hast.config.generator import GeneratorConfig
from hast.config.synthesize import SynthesisConfig
from hast.engine.engine import Engine
from hast.loops.finetune import finetune
from hast.loops.synthesize import synthesize
from hast.loops.train_generator import build_generator, train_generator
from hast.networks.batch_norm import freeze
from hast.networks.blocks import find_blocks
from hast.networks.digits_resnet import DigitsResNet

COMPILED = Engine(compile=True)
IMAGES = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return freeze(DigitsResNet(widths=(4,)))


@pytest.fixture
def compilations(monkeypatch):
    """How often something was compiled; without the part that writes and builds C++."""
    torch._dynamo.reset()
    counters.clear()
    traced = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr("torch.compile", traced)
    return lambda: counters["aot_autograd"]["ok"]


def test_synthesis_for_all_batches(teacher, spec, compilations):
    config = SynthesisConfig(samples=16, batch_size=8, steps=3)
    assert len([*synthesize(teacher, None, spec, config, [0, 1], COMPILED)]) == 6
    assert compilations() == 1


def test_the_generator(teacher, spec, compilations):
    config = GeneratorConfig(steps=3, batch_size=8, width=8, latent_dim=4)
    generator = build_generator(spec, config)
    assert len([*train_generator(generator, teacher, config, COMPILED)]) == 3
    assert compilations() == 1


@pytest.mark.parametrize("quantizer", ["minmax", "learned"])
def test_fine_tuning_for_clean_and_promoted_images(teacher, spec, compilations, quantizer):
    student = observed(teacher, spec, IMAGES, placement="relu", quantizer=quantizer)
    optimizer = {"minmax": "sgd", "learned": "adamw"}[quantizer]
    config = FinetuneConfig(steps=3, batch_size=8, optimizer=optimizer)
    blocks = find_blocks(teacher, spec)
    steps = [*finetune(student, teacher, IMAGES, torch.ones(24), blocks, config, COMPILED)]
    assert all(step.promoted > 0 for step in steps)
    assert compilations() == 2  # asking for the gradient of promoted images as well costs more
