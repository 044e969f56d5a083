"""Where teachers come from: a source string names a factory, the factory builds the network.

builtin:NAME                     a network of this package
torchvision:NAME                 torchvision.models
timm:NAME                        timm (optional)
pytorchcv:NAME                   pytorchcv (optional), the paper's teachers
python:package.module:factory    anything that returns an nn.Module
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

from hast.config.spec import PartialSpec
from hast.errors import InputError, first_line, needs
from hast.networks.digits_resnet import DIGITS_SPEC, DigitsResNet
from hast.networks.provenance import remember


class Built(NamedTuple):
    """A network and what its source knows of it; what it does not know is None."""

    network: nn.Module
    known: PartialSpec


Known = tuple[nn.Module, dict[str, Any]]  # a network, and parts of its spec


def build_network(source: str, arguments: Mapping[str, Any], *, tag: str | None = None) -> Built:
    """Build a network.

    Args:
        source: see the module's docstring.
        arguments: keyword arguments of the factory.
        tag: which pretrained weights of the source's library to load (they may be downloaded);
            None leaves random weights, or whatever weights a python factory has loaded itself.

    Raises:
        InputError: the source is malformed or not installed, or its factory fails.
    """
    kind, _, name = source.partition(":")
    builders: dict[str, Callable[..., Known]] = {
        "builtin": _builtin,
        "torchvision": _torchvision,
        "timm": _timm,
        "pytorchcv": _pytorchcv,
        "python": _python,
    }
    if kind not in builders or not name:
        raise InputError(
            f"source must be {', '.join(f'{k}:NAME' for k in builders if k != 'python')} or"
            f" python:package.module:factory, got {source!r}"
        )
    if tag is not None and kind in ("builtin", "python"):
        raise InputError(f"{source} has no pretrained weights named {tag!r}; give a file")
    try:
        network, known = builders[kind](name, dict(arguments), tag)
        built = Built(network, PartialSpec.model_validate(known))
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    except Exception as error:  # factories and downloads raise anything
        action = f"load weights {tag!r}" if tag else f"be built with {dict(arguments)}"
        raise InputError(f"{source}: cannot {action}: {first_line(error)}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"{source}: must return a torch.nn.Module, got {type(network).__name__}")
    remember(network, source=source, source_args=dict(arguments))
    return built


def is_trained_here(source: str) -> bool:
    """Whether the pipeline itself trains this network where no weights are given."""
    return source.startswith("builtin:")


def has_own_weights(source: str) -> bool:
    """Whether the factory may have loaded weights itself."""
    return source.startswith("python:")


def _builtin(name: str, arguments: dict[str, Any], _tag: str | None) -> Known:
    if name != "digits_resnet":
        raise InputError("unknown built-in network; there is digits_resnet")
    return DigitsResNet(**arguments), DIGITS_SPEC.model_dump()


def _torchvision(name: str, arguments: dict[str, Any], tag: str | None) -> Known:
    from torchvision.models import get_model, get_model_weights

    network = get_model(name, weights=tag, **arguments)
    if tag is None:
        return network, {}
    weights = get_model_weights(name)[tag]
    preset, classes = weights.transforms(), tuple(weights.meta["categories"])
    return network, {
        "input_shape": (3, preset.crop_size[0], preset.crop_size[0]),
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
        "num_classes": len(classes),
        "class_names": classes,
    }


def _timm(name: str, arguments: dict[str, Any], tag: str | None) -> Known:
    with needs("timm"):
        timm = importlib.import_module("timm")
    full_name = name if tag in (None, "pretrained") else f"{name}.{tag}"
    network = timm.create_model(full_name, pretrained=tag is not None, **arguments)
    if tag is None:
        return network, {}
    config = network.pretrained_cfg
    return network, {
        "input_shape": tuple(config["input_size"]),
        "mean": tuple(config["mean"]),
        "std": tuple(config["std"]),
        "num_classes": network.num_classes,
    }


def _pytorchcv(name: str, arguments: dict[str, Any], tag: str | None) -> Known:
    with needs("pytorchcv"):
        provider = importlib.import_module("pytorchcv.model_provider")
    if tag not in (None, "pretrained"):
        raise InputError(f"its weights have one tag, 'pretrained', got {tag!r}")
    network = provider.get_model(name, pretrained=tag is not None, **arguments)
    return network, {
        "input_shape": (arguments.get("in_channels", 3), *network.in_size),
        "num_classes": network.num_classes,
    }


def _python(name: str, arguments: dict[str, Any], _tag: str | None) -> Known:
    module_name, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"cannot be imported ({error}); it must be importable from the folder the command"
            " runs in"
        ) from error
    return factory(**arguments), {}
