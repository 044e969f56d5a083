"""The teacher on disk: weights, and a card that tells how to rebuild the network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from hast.config.section import Section
from hast.config.spec import ModelSpec
from hast.engine.engine import place
from hast.errors import InputError
from hast.files.weights import WEIGHTS, load_card, load_state, read_state, save_with_card
from hast.networks.batch_norm import freeze
from hast.networks.fingerprint import fingerprint, rounding_between
from hast.networks.given import plain_copy
from hast.networks.sources import build_network


class TeacherCard(Section):
    """How to rebuild the teacher, and what it expects."""

    source: str
    source_args: dict[str, Any]
    spec: ModelSpec
    fingerprint: str  # of the weights, see `fingerprint`


class Teacher(NamedTuple):
    """A frozen network with its card."""

    network: nn.Module
    card: TeacherCard

    @property
    def spec(self) -> ModelSpec:
        return self.card.spec

    def require_made_for(self, fingerprint: str, folder: Path) -> None:
        """Check that what `folder` holds was made for this teacher.

        Raises:
            InputError: with both fingerprints.
        """
        if fingerprint != self.card.fingerprint:
            why = rounding_between(fingerprint, self.network.state_dict())
            raise InputError(
                f"{folder} was made for teacher {fingerprint} but the teacher is"
                f" {self.card.fingerprint}{why}; rerun `dvc repro`"
            )


def save_teacher(
    folder: Path, network: nn.Module, spec: ModelSpec, source: str, source_args: Mapping[str, Any]
) -> None:
    """Write a classifier of a source, as `load_teacher` rebuilds it."""
    card = TeacherCard(
        source=source, source_args=dict(source_args), spec=spec,
        fingerprint=fingerprint(network.state_dict()),
    )  # fmt: skip
    save_with_card(folder, network, card)


def load_teacher(folder: Path, device: torch.device) -> Teacher:
    """Rebuild the teacher on `device`, frozen.

    Raises:
        InputError: a file is missing, corrupt, or does not belong to the card.
    """
    card = load_card(folder, TeacherCard)
    network = plain_copy(build_network(card.source, card.source_args).network, say=None)
    state = read_state(folder / WEIGHTS)
    found = fingerprint(state)
    if found != card.fingerprint:
        raise InputError(
            f"{folder / WEIGHTS}: weights have fingerprint {found} but the card says"
            f" {card.fingerprint}; rerun `dvc repro --force teacher`"
        )
    load_state(network, state, name=str(folder / WEIGHTS))
    return Teacher(place(freeze(network), device, card.spec.input_shape), card)
