import pytest
import torch
from torch import nn

from hast.errors import InputError
from hast.networks.digits_resnet import DIGITS_SPEC
from hast.networks.sources import build_network, check_classifier
from hast.networks.spec import ModelSpec


def test_a_factory_is_found_by_its_python_path():
    network = build_network("python:torch.nn:Linear", {"in_features": 3, "out_features": 2})
    assert isinstance(network, nn.Linear)


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        ("builtin:nothing", {}, "unknown built-in network"),
        ("resnet18", {}, "must be builtin:NAME or python:package.module:factory, got 'resnet18'"),
        ("python:no_such_module:f", {}, "cannot be imported"),
        ("python:torch.nn:NoSuchThing", {}, "cannot be imported"),
        ("python:torch", {}, "cannot be imported"),
        ("python:torch.nn:Linear", {"wrong": 1}, "cannot be built with {'wrong': 1}"),
        ("python:builtins:dict", {}, r"must return a torch\.nn\.Module, got dict"),
        ("python:torch:__version__", {}, "must be callable"),
    ],
)
def test_a_wrong_source_is_refused_in_one_line(source, arguments, message):
    with pytest.raises(InputError, match=message) as error:
        build_network(source, arguments)
    assert "\n" not in str(error.value)


def changed(**values):
    return ModelSpec(**(DIGITS_SPEC.model_dump() | {"class_names": ()} | values))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (changed(num_classes=7), r"must answer 7 logits an image.* got \(2, 10\)"),
        (changed(input_shape=(3, 8, 8), mean=(0,) * 3, std=(1,) * 3), "cannot take 3x8x8 images"),
    ],
)
def test_a_spec_that_does_not_fit_the_network_is_refused(spec, message):
    with pytest.raises(InputError, match=message):
        check_classifier(build_network("builtin:digits_resnet", {}), spec)


def test_nan_weights_are_noticed(teacher):
    torch.nn.init.constant_(teacher.classifier.bias, torch.nan)
    with pytest.raises(InputError, match="answers NaN"):
        check_classifier(teacher, DIGITS_SPEC)
