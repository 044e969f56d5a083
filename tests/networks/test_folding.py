"""BatchNorm folded into quantized layers."""

import pytest
import torch
from conftest import spec_of
from students import Net, calibrated, warm_classifier, warm_network
from torch import nn

from hast.networks.codes import weight_codes
from hast.networks.folding import fold_batch_norm, foldable

SPEC = spec_of((3, 16, 16), 7)


def assert_folds_away(network, spec):
    """No BatchNorm is left, and the answers stay."""
    folded = fold_batch_norm(network, spec)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    x = torch.randn(4, *spec.input_shape)
    torch.testing.assert_close(folded(x), network(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("source", ["torchvision:resnet18", "torchvision:mobilenet_v2"])
def test_every_batch_norm_of_a_convolutional_network_is_folded(source):
    network, spec = warm_classifier(source, {}, (3, 32, 32))
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(foldable(network, spec)) == len(norms)
    assert_folds_away(network, spec)


def test_codes_stay_or_are_mirrored_and_answers_stay(teacher, spec):
    warm_network(teacher, spec)
    student = calibrated(teacher, spec, "w3a8")
    folded = fold_batch_norm(student, spec)
    before, after = weight_codes(student), weight_codes(folded)
    gains = teacher.stem[1].weight
    assert (gains < 0).any()
    for channel, gain in enumerate(gains):
        codes = before["stem.0"].codes[channel]
        assert torch.equal(after["stem.0"].codes[channel], codes if gain > 0 else 7 - codes)
    x = torch.randn(32, *spec.input_shape)
    assert (folded(x).argmax(1) == student(x).argmax(1)).float().mean() > 0.9
    assert (folded(x) - student(x)).abs().mean() < 0.1 * student(x).std()


def test_a_channel_without_gain_is_the_batch_norms_bias_alone(teacher, spec):
    warm_network(teacher, spec)
    with torch.no_grad():
        teacher.stem[1].weight[0] = 0.0
    folded = fold_batch_norm(calibrated(teacher, spec), spec)
    answer = folded.stem[0](torch.randn(2, 1, 8, 8))
    assert torch.equal(answer[:, 0], teacher.stem[1].bias[0].expand_as(answer[:, 0]))
    assert folded.stem[0].weight.isfinite().all()


def test_a_batch_norm_with_two_names_goes_under_both():
    norm = nn.BatchNorm2d(4)
    network = Net(
        lambda net, x: net.fc(net.same(net.conv(x)).mean((2, 3))),
        conv=nn.Conv2d(3, 4, 3), norm=norm, same=norm, fc=nn.Linear(4, 7),
    )  # fmt: skip
    warm_network(network, SPEC)
    assert_folds_away(network, SPEC)


def test_only_a_batch_norm_that_alone_reads_the_layer_is_folded():
    def compute(net, x):
        y = net.conv(x)
        return net.fc(net.last_norm(net.last(net.norm(y) + y)).mean((2, 3)))

    network = Net(
        compute, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4),
        last=nn.Conv2d(4, 4, 3), last_norm=nn.BatchNorm2d(4), fc=nn.Linear(4, 7),
    )  # fmt: skip
    warm_network(network, SPEC)
    assert foldable(network, SPEC) == {"last": "last_norm"}
    x = torch.randn(2, *SPEC.input_shape)
    torch.testing.assert_close(fold_batch_norm(network, SPEC)(x), network(x))


def test_a_shared_batch_norm_stays():
    network = Net(
        lambda net, x: net.fc(net.norm(net.b(net.norm(net.a(x)))).mean((2, 3))),
        a=nn.Conv2d(3, 3, 3), b=nn.Conv2d(3, 3, 3), norm=nn.BatchNorm2d(3), fc=nn.Linear(3, 7),
    )  # fmt: skip
    assert foldable(warm_network(network, SPEC), SPEC) == {}


def test_a_batch_norm_over_positions_is_not_taken_for_one_over_channels():
    network = Net(
        lambda net, x: net.out(net.norm(net.fc(x.flatten(1, 2))).mean(1)),
        fc=nn.Linear(16, 48), norm=nn.BatchNorm1d(48), out=nn.Linear(48, 7),
    )  # fmt: skip
    network(torch.randn(4, *SPEC.input_shape))
    assert foldable(network.eval(), SPEC) == {}
