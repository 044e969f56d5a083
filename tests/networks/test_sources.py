import sys

import pytest
import torch
from conftest import refused
from students import Net
from torch import nn

from hast.config.spec import PartialSpec
from hast.networks.classifier import check_classifier, require_batch_norm, resolve_spec
from hast.networks.digits_resnet import DIGITS_SPEC
from hast.networks.sources import build_network


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        ("builtin:nothing", {}, "unknown built-in network"),
        ("resnet18", {}, "or python:package.module:factory, got 'resnet18'"),
        ("python:no_such_module:f", {}, "cannot be imported"),
        ("python:torch.nn:NoSuchThing", {}, "cannot be imported"),
        ("python:torch", {}, "cannot be imported"),
        ("python:torch.nn:Linear", {"wrong": 1}, "cannot be built with {'wrong': 1}"),
        ("python:builtins:dict", {}, r"must return a torch\.nn\.Module, got dict"),
        ("torchvision:no_such_net", {}, "torchvision:no_such_net: cannot be built"),
        ("timm:no_such_net", {}, "timm:no_such_net: cannot be built|timm is not installed"),
        ("python:torch:__version__", {}, "cannot be built with {}: .*not callable"),
    ],
)
def test_a_wrong_source_is_refused_in_one_line(source, arguments, message):
    with refused(message):
        build_network(source, arguments)


def test_a_pretrained_tag_of_a_source_without_tags_is_refused():
    with refused("has no pretrained weights named 'best'; give a file"):
        build_network("builtin:digits_resnet", {}, tag="best")


def test_a_missing_optional_library_ends_with_the_line_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with refused("timm is not installed; run `pip install timm`"):
        build_network("timm:resnet18", {})


def test_a_library_that_knows_its_pretrained_weights_gives_the_spec(monkeypatch):
    """The real loading code up to the download, which is replaced by random weights."""
    import torchvision

    network = torchvision.models.resnet18(weights=None)
    monkeypatch.setattr(
        torchvision.models.ResNet18_Weights, "get_state_dict", lambda *_, **__: network.state_dict()
    )
    built = build_network("torchvision:resnet18", {}, tag="IMAGENET1K_V1")
    assert built.known.input_shape == (3, 224, 224)
    assert built.known.mean == (0.485, 0.456, 0.406)
    assert built.known.num_classes == 1000
    assert built.known.class_names[0] == "tench"
    assert torch.equal(built.network.fc.weight, network.fc.weight)


SHAPE = {"input_shape": (1, 8, 8)}
KNOWN = SHAPE | {"mean": (0.0,), "std": (1.0,)}


def test_what_the_source_does_not_know_is_given_and_classes_are_counted():
    network = build_network("builtin:digits_resnet", {"num_classes": 7}).network
    spec = resolve_spec(network, PartialSpec(), PartialSpec(**KNOWN))
    assert (spec.num_classes, spec.input_shape) == (7, (1, 8, 8))


@pytest.mark.parametrize(
    ("known", "given", "message"),
    [
        ({}, SHAPE, "mean must be given"),
        ({}, {"mean": (0.0,), "std": (1.0,)}, "input_shape must be given"),
        (KNOWN, {"mean": (0.5,)}, r"mean is \(0\.5,\) but the source says \(0\.0,\); remove it"),
        ({}, {"input_shape": (3, 8, 8)}, "cannot take 3x8x8 images"),
        (KNOWN, {"num_classes": 3}, "answers 10 logits an image but num_classes is 3"),
        (SHAPE, {"mean": (0, 0), "std": (1, 1)}, "one value for each of 1 channels"),
    ],
)
def test_a_spec_that_contradicts_or_lacks_something_is_refused(known, given, message):
    network = build_network("builtin:digits_resnet", {}).network
    with refused(message):
        resolve_spec(network, PartialSpec(**known), PartialSpec(**given))


def test_batch_norms_that_are_never_called_do_not_count():
    def compute(net, x):
        x = nn.functional.batch_norm(x, net.bn.running_mean, net.bn.running_var)
        return net.fc(x.flatten(1))

    network = Net(compute, bn=nn.BatchNorm2d(1), fc=nn.Linear(64, 10))
    check_classifier(network, DIGITS_SPEC)
    with refused("its forward never calls them"):
        require_batch_norm(network, DIGITS_SPEC.input_shape)
