"""Train the generator against the frozen teacher: images it classifies as asked, with its BNS.

    L = CE(f(g(z, y)), y) + 0.1 * L_BNS

Some hundred steps in a minute, as in GDFQ's warm-up. Its images are crude, and that is enough for
what they do: activation ranges (recipe `hast`) and, where asked for, a start of the synthesis.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hast.config.generator import GeneratorConfig
from hast.config.spec import ModelSpec
from hast.engine.engine import PLAIN, Engine
from hast.engine.runtime import device_of, loop, seeded, seeded_weights
from hast.loops.checks import check_finite, check_result
from hast.math.statistics import bns_loss
from hast.networks.batch_norm import folded_statistics, tap_batch_norm_inputs
from hast.networks.generator import Generator
from hast.networks.strides import strides_afterwards

_CAUSE = "learning_rate too high, or NaN in the teacher's weights"


class GeneratorStep(NamedTuple):
    loss: Tensor
    cross_entropy: Tensor  # nats
    bns: Tensor


@loop
def train_generator(
    generator: Generator, teacher: nn.Module, config: GeneratorConfig, engine: Engine = PLAIN
) -> Iterator[GeneratorStep]:
    """Train `generator` in place with L = CE + bns_weight * L_BNS; it ends in eval mode.

    Args:
        generator: on the teacher's device.
        teacher: frozen, eval mode.
        config: see `GeneratorConfig`.
        engine: how the loss is computed.
    """
    device = device_of(teacher)
    num_classes = generator.embedding.num_embeddings
    random = seeded(config.seed, "generator", "batches")
    optimizer = torch.optim.Adam(generator.parameters(), config.learning_rate, betas=(0.5, 0.999))
    generator.train()
    with (
        strides_afterwards(teacher, generator.shape, engine),
        tap_batch_norm_inputs(teacher) as tap,
        folded_statistics(teacher),
    ):

        def losses_of(latent: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            logits = teacher(generator(latent, labels)).float()
            cross_entropy = F.cross_entropy(logits, labels)
            bns = bns_loss(tap)
            tap.clear()
            return cross_entropy + config.bns_weight * bns, cross_entropy, bns

        wrapped = engine.wrap(losses_of, device)

        def gradients(latent: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            optimizer.zero_grad()
            losses = wrapped(latent, labels)
            losses[0].backward()
            return losses

        for step in range(config.steps):
            labels = torch.randint(num_classes, (config.batch_size,), generator=random).to(device)
            latent = generator.noise(len(labels), random).to(device)
            loss, cross_entropy, bns = wrapped.step(gradients, latent, labels)
            check_finite(loss, loop="generator", step=step, steps=config.steps, cause=_CAUSE)
            optimizer.step()
            yield GeneratorStep(loss.detach(), cross_entropy.detach(), bns.detach())
    generator.eval()
    check_result(generator.parameters(), loop="generator", steps=config.steps, cause=_CAUSE)


def build_generator(spec: ModelSpec, config: GeneratorConfig) -> Generator:
    """An untrained generator with seeded weights."""
    with seeded_weights(config.seed, "generator", "weights"):
        return Generator(spec, config.latent_dim, config.width)
