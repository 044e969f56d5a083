"""A trained classifier from a source string, its weights and what is known of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from hast.config.section import parse_section
from hast.config.spec import ModelSpec, PartialSpec
from hast.engine.runtime import seeded_weights
from hast.errors import InputError
from hast.files.names import named_as
from hast.files.weights import is_checkpoint, load_state, read_state
from hast.networks.classifier import resolve_spec
from hast.networks.given import plain_copy
from hast.networks.sources import build_network, has_own_weights, is_trained_here


class Classifier(NamedTuple):
    network: nn.Module  # eval mode
    spec: ModelSpec


def load_classifier(
    source: str,
    *,
    weights: str | None = None,
    weights_entry: str = "auto",
    source_args: Mapping[str, Any] | None = None,
    spec: PartialSpec | Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Classifier:
    """Build a network and load its weights.

    Args:
        source: `torchvision:NAME`, `timm:NAME`, `pytorchcv:NAME`, `builtin:NAME` or
            `python:package.module:factory`.
        weights: a checkpoint file, or a pretrained tag of the source's library. None takes a python
            factory's network as it comes, and leaves a built-in one untrained.
        weights_entry: which weights of a checkpoint file that holds several, such as `state_dict`;
            `auto` takes averaged ones (EMA) where they are, and says so.
        source_args: keyword arguments of the factory.
        spec: what the source does not know: input_shape, num_classes, mean, std, class_names.
        seed: of weights that no checkpoint sets.

    Raises:
        InputError: the source, the weights or the spec are wrong or contradict each other.
    """
    file = Path(weights) if weights is not None and is_checkpoint(weights) else None
    if weights_entry != "auto" and not file:
        raise InputError(
            f"weights_entry must be auto unless weights is a checkpoint file, got {weights_entry!r}"
            f" and weights {weights!r}"
        )
    with seeded_weights(seed, "teacher", "weights"):
        built = build_network(source, source_args or {}, tag=None if file else weights)
    if file:
        state = named_as(built.network, read_state(file, weights_entry), name=str(file))
        load_state(built.network, state, name=str(file))
    elif weights is None and not (is_trained_here(source) or has_own_weights(source)):
        raise InputError(f"weights are required for source {source}: a pretrained tag or a file")
    network = plain_copy(built.network)
    if not isinstance(spec, PartialSpec):
        spec = parse_section(dict(spec or {}), PartialSpec, name="spec")
    try:
        return Classifier(network, resolve_spec(network, built.known, spec))
    except InputError as error:
        raise InputError(f"{source} and its spec: {error}") from error
