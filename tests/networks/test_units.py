import pytest
import torch
from students import IMAGENET, SHARING, Sharing, imagenet

from hast.networks.batch_norm import freeze
from hast.networks.plan import WEIGHTED, probe_layers
from hast.networks.units import call_of, find_units


@pytest.mark.parametrize(
    ("name", "first", "blocks"),
    [
        ("resnet18", ["conv1", "layer1.0"], 8),
        ("mobilenet_v2", ["features.0.0", "features.1"], 17),
        ("vgg11_bn", ["features.0", "features.4"], 0),
        ("densenet121", ["features.conv0", "features.denseblock1.denselayer1.conv1"], 0),
    ],
)
def test_units_are_residual_blocks_and_single_layers_and_hold_every_layer_once(name, first, blocks):
    network = imagenet(name)
    layers = list(probe_layers(network, IMAGENET, WEIGHTED))
    units = find_units(network, IMAGENET, layers)
    assert [unit.name for unit in units][:2] == first
    assert sum(len(unit.layers) > 1 for unit in units) == blocks
    assert sorted(layer for unit in units for layer in unit.layers) == sorted(layers)


def test_layers_that_share_a_weight_are_left_alone():
    network = freeze(Sharing())
    units = find_units(network, SHARING, list(probe_layers(network, SHARING, WEIGHTED)))
    assert [unit.name for unit in units] == ["first", "up", "head"]


def test_a_pass_goes_as_far_as_the_module():
    network = imagenet("resnet18")
    x = torch.randn(2, 3, 64, 64)
    call = call_of(network, "layer1.0", x)
    with torch.no_grad():
        expected = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    assert torch.equal(call.input, expected)
    assert torch.equal(call.output, network.layer1[0](expected))
    assert not network.layer1[0]._forward_hooks
