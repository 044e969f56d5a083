"""Banks of noise."""

from typing import Any

import torch
from conftest import spec_of
from torch import Tensor, nn

from hast.bank.pixels import as_stored
from hast.bank.record import Bank, BankCard
from hast.config.spec import ModelSpec
from hast.networks.fingerprint import fingerprint

TEACHER = "a" * 64


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Gaussian noise (N, C, H, W), rounded to what 8 bits hold."""
    images = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return as_stored(images, "uint8")


def noise_bank(
    samples: int, shape: tuple[int, int, int], *, classes: int = 5, seed: int = 0, **others: Any
) -> Bank:
    """A bank of 8 bits whose difficulties rise from 0 to 1; `others` are fields of the record."""
    spec = spec_of(shape, classes, std=(0.2,) * shape[0])
    card = BankCard(samples=samples, spec=spec, teacher=TEACHER, synthesis={"seed": seed})
    labels = torch.arange(samples) % classes
    rising = torch.linspace(0, 1, samples)
    return Bank(noise(samples, *shape, seed=seed), labels, card, rising, **others)


def bank_for(teacher: nn.Module, spec: ModelSpec, samples: int) -> Bank:
    """A bank of noise that says it was made for this teacher."""
    bank = noise_bank(samples, spec.input_shape, classes=spec.num_classes)
    made_for = {"spec": spec, "teacher": fingerprint(teacher.state_dict())}
    return bank._replace(card=bank.card.model_copy(update=made_for))
