"""teacher: obtain the full-precision network; train it where it is the built-in default."""

from pathlib import Path
from typing import Any

from torch import nn

from hast.config import Section, load_section
from hast.errors import InputError
from hast.loops.train_teacher import TrainingConfig, total_steps, train_teacher
from hast.networks.batch_norm import batch_norms
from hast.networks.sources import build_network, builtin_spec, check_classifier
from hast.networks.spec import ModelSpec
from hast.progress import track
from hast.runtime import seeded_weights, select_device
from hast.storage.datasets import load_digits_split
from hast.storage.tables import write_json
from hast.storage.teachers import TeacherCard
from hast.storage.weights import fingerprint, load_state, read_state, save_with_card
from stages.entry import PARAMS, Out, Params, main


class TeacherConfig(Section):
    """Which network.

    Attributes:
        source: `builtin:digits_resnet` or `python:package.module:factory`.
        source_args: keyword arguments of the factory.
        weights: checkpoint file; null trains the built-in network.
        spec: what the network expects; null takes what the source knows of itself.
        training: used where `weights` is null.
    """

    source: str
    source_args: dict[str, Any] = {}
    weights: Path | None = None
    spec: ModelSpec | None = None
    training: TrainingConfig = TrainingConfig()


def run(*, out: Out, metrics: Out, params: Params = PARAMS) -> None:
    """Write the teacher's weights and card to OUT."""
    config = load_section(params, "teacher", TeacherConfig)
    with seeded_weights(config.training.seed, "teacher", "weights"):
        network = build_network(config.source, config.source_args)
    spec = config.spec or builtin_spec(config.source)
    if spec is None:
        raise InputError(f"{params}: teacher.spec is required for source {config.source}")

    if config.weights is not None:
        load_state(network, read_state(config.weights), name=str(config.weights))
    check_classifier(network, spec)
    if config.weights is None:
        _train(network, spec, config)

    card = TeacherCard(
        source=config.source,
        source_args=config.source_args,
        spec=spec,
        fingerprint=fingerprint(network.state_dict()),
    )
    save_with_card(out, network, card)
    write_json(
        metrics,
        {
            "parameters": sum(p.numel() for p in network.parameters()),
            "batch_norm_layers": len(batch_norms(network)),
        },
    )


def _train(network: nn.Module, spec: ModelSpec, config: TeacherConfig) -> None:
    if builtin_spec(config.source) is None:
        raise InputError(
            f"teacher.weights is required for source {config.source}: only built-in networks are"
            " trained here"
        )
    images, labels = load_digits_split("train", spec)
    device = select_device()
    steps = train_teacher(network.to(device), images.to(device), labels.to(device), config.training)
    total = total_steps(config.training, len(images))
    for _ in track(steps, total=total, label="teacher", fields=("loss",)):
        pass


if __name__ == "__main__":
    main(run)
