"""Where teachers come from: a source string names a factory, the factory builds the network."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from hast.errors import InputError
from hast.networks.batch_norm import batch_norms
from hast.networks.digits_resnet import DIGITS_SPEC, DigitsResNet
from hast.networks.spec import ModelSpec

_BUILTIN: dict[str, tuple[Callable[..., nn.Module], ModelSpec]] = {
    "digits_resnet": (DigitsResNet, DIGITS_SPEC),
}


def build_network(source: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build an untrained network.

    Args:
        source: `builtin:NAME` or `python:package.module:factory`.
        arguments: keyword arguments of the factory.

    Raises:
        InputError: the source is malformed, its module or factory is missing, or the factory fails.
    """
    factory = _find_factory(source)
    try:
        network = factory(**arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"{source}: cannot be built with {dict(arguments)}: {error}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"{source}: must return a torch.nn.Module, got {type(network).__name__}")
    return network


def is_builtin(source: str) -> bool:
    return source.startswith("builtin:")


def builtin_spec(source: str) -> ModelSpec | None:
    """The spec that a source knows of itself, if any."""
    kind, _, name = source.partition(":")
    return _BUILTIN[name][1] if kind == "builtin" and name in _BUILTIN else None


def check_classifier(network: nn.Module, spec: ModelSpec) -> None:
    """Try the network on one batch of zeros.

    Raises:
        InputError: no BatchNorm, an input shape it cannot take, logits that are not (N, K), or
            NaN in the answer.
    """
    batch_norms(network)
    name = type(network).__name__
    shape = "x".join(map(str, spec.input_shape))
    try:
        with torch.no_grad():
            logits = network.eval()(torch.zeros(2, *spec.input_shape))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{name} cannot take {shape} images ({reason}); set the spec's input_shape"
        ) from error
    expected = (2, spec.num_classes)
    got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if got != expected:
        raise InputError(
            f"{name} must answer {spec.num_classes} logits an image, that is {expected} for two"
            f" images, got {got}; set the spec's num_classes"
        )
    if not torch.isfinite(logits).all():
        raise InputError(f"{name} answers NaN or infinity to a zero image; check its weights")


def _find_factory(source: str) -> Callable[..., nn.Module]:
    kind, _, name = source.partition(":")
    if kind == "builtin":
        if name not in _BUILTIN:
            raise InputError(f"{source}: unknown built-in network; there is {sorted(_BUILTIN)}")
        return _BUILTIN[name][0]
    if kind == "python":
        return _import_factory(source, *name.partition(":")[::2])
    raise InputError(
        f"source must be builtin:NAME or python:package.module:factory, got {source!r}"
    )


def _import_factory(source: str, module_name: str, attribute: str) -> Callable[..., nn.Module]:
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"{source}: cannot be imported ({error}); it must be importable from the folder the"
            " command runs in"
        ) from error
    if not callable(factory):
        raise InputError(f"{source}: must be callable, got {type(factory).__name__}")
    return factory  # type: ignore[no-any-return]
