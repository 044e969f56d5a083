"""The integer executor."""

import pytest
import torch
import torch.nn.functional as F
from students import calibrated, warm_classifier, warm_network
from torch import nn

from hast.networks.integer import _convolve, integer_network
from hast.networks.spec import ModelSpec


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        nn.Conv2d(6, 9, (3, 1), padding=(1, 2), dilation=(2, 1), groups=3),
        nn.Conv2d(6, 6, 3, padding="same", dilation=2, groups=6),
        nn.Conv1d(6, 4, 5, stride=3, padding="valid"),
        nn.Conv3d(6, 4, 2, padding=1),
    ],
    ids=str,
)
def test_an_integer_convolution_is_torchs_own(layer):
    size = (9, 8, 7)[: layer.weight.ndim - 2]
    x = torch.randint(-255, 256, (2, 6, *size), dtype=torch.int32)
    w = torch.randint(-255, 256, layer.weight.shape, dtype=torch.int32)
    layer.weight.data = w.double()
    layer.bias = None
    expected = layer(x.double())
    found = _convolve(x, w, layer)
    assert found.dtype == torch.int32
    assert torch.equal(found.double(), expected)


@pytest.mark.parametrize("bits", ["w4a4", "w3a3", "w8a8", "w2a5"])
def test_every_layer_computes_with_integers_and_the_answers_agree(bits):
    network, spec = warm_classifier("builtin:digits_resnet", {"widths": (8, 16)}, (1, 8, 8))
    student = calibrated(network, spec, bits)
    integer = integer_network(student)
    x = torch.randn(64, *spec.input_shape)
    answers = integer(x)
    assert integer.integer_layers == integer.layers == 7
    expected = student(x)
    assert (answers.argmax(1) == expected.argmax(1)).float().mean() >= 0.98
    assert (answers - expected).abs().mean() < 0.02 * expected.std()
    assert torch.equal(student(x), expected)  # the student itself is left as it was


def test_a_single_layer_differs_by_rounding_alone(spec):
    network = warm_network(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10)), spec
    )
    student = calibrated(network, spec, "w4a4", skip=["3"])
    x = torch.randn(16, *spec.input_shape)
    torch.testing.assert_close(integer_network(student)(x), student(x), rtol=1e-5, atol=1e-5)


def test_depthwise_layers_and_linear_only_networks_are_integer_too():
    network, spec = warm_classifier("torchvision:mobilenet_v2", {}, (3, 32, 32))
    integer = integer_network(calibrated(network, spec, "w8a8"))
    integer(torch.randn(2, *spec.input_shape))
    assert integer.integer_layers == integer.layers == 53
    spec = ModelSpec(input_shape=(1, 8, 8), num_classes=10, mean=(0.5,), std=(0.5,))
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
    student = calibrated(linear, spec, "w4a4")
    integer = integer_network(student)
    x = torch.randn(16, *spec.input_shape)
    torch.testing.assert_close(integer(x), student(x))
    assert integer.integer_layers == 2


def test_where_only_relus_are_quantized_the_layers_that_see_other_inputs_say_so():
    network, spec = warm_classifier("torchvision:resnet18", {}, (3, 32, 32))
    student = calibrated(network, spec, "w4a4", placement="relu")
    integer = integer_network(student)
    x = torch.randn(2, *spec.input_shape)
    integer(x)
    # The image and the averaged features come from no quantizer; max pooling keeps the grid.
    assert [name for name, done in integer.done.items() if not done] == ["conv1", "fc"]


def test_a_value_that_left_the_grid_in_place_is_not_taken_for_a_code(spec):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.bn, self.relu = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
            self.b, self.fc = nn.Conv2d(4, 4, 3), nn.Linear(4, 10)

        def forward(self, x):
            x = self.relu(self.bn(self.a(x)))
            x += 0.01
            return self.fc(self.b(x).mean((2, 3)))

    student = calibrated(warm_network(InPlace(), spec), spec, "w4a4", placement="relu")
    integer = integer_network(student)
    x = torch.randn(4, *spec.input_shape)
    torch.testing.assert_close(integer(x), student(x))
    assert integer.integer_layers == 0


def test_a_subclass_with_its_own_forward_runs_it(spec):
    class Padded(nn.Conv2d):
        def forward(self, x):
            return super().forward(F.pad(x, (1, 0, 1, 0)))

    network = nn.Sequential(Padded(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(196, 10))
    student = calibrated(warm_network(network, spec), spec, "w4a4")
    integer = integer_network(student)
    x = torch.randn(4, *spec.input_shape)
    torch.testing.assert_close(integer(x), student(x))
    assert integer.done == {"0": False, "3": True}
