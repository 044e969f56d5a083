import pytest
import torch
from conftest import refused
from students import IMAGENET, Net, imagenet
from torch import nn

from hast.networks.blocks import find_blocks, tap_attention
from hast.networks.folding import foldable


def test_the_built_in_network_aligns_its_three_bodies(teacher, spec):
    assert find_blocks(teacher, spec) == ["stages.0.body", "stages.1.body"]


@pytest.mark.parametrize(
    ("name", "first", "count"),
    [
        ("resnet18", "layer1.0.bn2", 8),
        ("resnet50", "layer1.0.bn3", 16),
        ("mobilenet_v2", "features.3.conv", 10),
        ("regnet_y_400mf", "trunk_output.block1.block1-0.f", 16),
        ("vgg11_bn", "features.1", 8),  # no residual, so each BatchNorm
    ],
)
def test_what_is_aligned_is_found_by_structure(name, first, count):
    blocks = find_blocks(imagenet(name), IMAGENET)
    assert len(blocks) == count
    assert blocks[0] == first


def test_patterns_replace_the_search():
    network = imagenet("resnet18")
    assert find_blocks(network, IMAGENET, ["layer?.1"]) == [f"layer{i}.1" for i in range(1, 5)]
    with refused(r"'layer9\.\*' matches no module"):
        find_blocks(network, IMAGENET, ["layer1", "layer9.*"])
    with refused("no module matching"):
        find_blocks(network, IMAGENET, ["fc"])


def test_features_are_taken_before_an_in_place_addition():
    network = imagenet("resnet18")  # adds the shortcut to the body's tensor in place
    x = torch.randn(2, 3, 64, 64, requires_grad=True)
    seen: list[torch.Tensor] = []
    handle = network.layer1[0].bn2.register_forward_hook(
        lambda _m, _a, out: seen.append(out.clone())
    )
    with tap_attention(network, ["layer1.0.bn2"]) as tapped:
        network(x)
        tapped["layer1.0.bn2"].sum().backward()  # fails if the addition overwrote what it needs
    handle.remove()
    expected = nn.functional.normalize(seen[0].square().mean((2, 3)), dim=1)
    assert torch.allclose(tapped["layer1.0.bn2"], expected)
    assert x.grad is not None


def shifted(x):
    y = torch.zeros(x.shape)
    y[:, :2] = x[:, 1:]
    return y


@pytest.mark.parametrize(
    "start",
    [shifted, lambda x: (x * 255).to(torch.uint8).float() / 255, lambda x: torch.fft.fft2(x).abs()],
    ids=["written into zeros", "through bytes", "through a spectrum"],
)
def test_what_comes_from_the_image_by_other_types_is_followed(start):
    torch.manual_seed(0)
    network = Net(lambda net, x: net.inside(start(x)), inside=imagenet("resnet18"))
    assert find_blocks(network.eval(), IMAGENET) == [
        f"inside.{name}" for name in find_blocks(imagenet("resnet18"), IMAGENET)
    ]
    assert len(foldable(network, IMAGENET)) == len(foldable(imagenet("resnet18"), IMAGENET)) > 5
