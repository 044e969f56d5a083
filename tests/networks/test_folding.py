"""BatchNorm folded into quantized layers."""

import pytest
import torch
from students import calibrated, warm_classifier, warm_network
from torch import nn

from hast.config.spec import ModelSpec
from hast.networks.codes import weight_codes
from hast.networks.folding import fold_batch_norm, foldable

SPEC = ModelSpec(input_shape=(3, 16, 16), num_classes=7, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize("source", ["torchvision:resnet18", "torchvision:mobilenet_v2"])
def test_every_batch_norm_of_a_convolutional_network_is_folded(source):
    network, spec = warm_classifier(source, {}, (3, 32, 32))
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(foldable(network, spec)) == len(norms)
    folded = fold_batch_norm(network, spec)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    x = torch.randn(4, *spec.input_shape)
    torch.testing.assert_close(folded(x), network(x), rtol=1e-3, atol=1e-3)


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
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 7)
            self.same = self.norm

        def forward(self, x):
            return self.fc(self.same(self.conv(x)).mean((2, 3)))

    network = warm_network(Twice(), SPEC)
    folded = fold_batch_norm(network, SPEC)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    x = torch.randn(4, *SPEC.input_shape)
    torch.testing.assert_close(folded(x), network(x), rtol=1e-3, atol=1e-3)


class ReadTwice(nn.Module):
    """Something else than the BatchNorm reads the convolution, too."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.last, self.last_norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 7)

    def forward(self, x):
        y = self.conv(x)
        y = self.norm(y) + y
        return self.fc(self.last_norm(self.last(y)).mean((2, 3)))


def test_only_a_batch_norm_that_alone_reads_the_layer_is_folded():
    network = warm_network(ReadTwice(), SPEC)
    assert foldable(network, SPEC) == {"last": "last_norm"}
    x = torch.randn(2, *SPEC.input_shape)
    torch.testing.assert_close(fold_batch_norm(network, SPEC)(x), network(x))


class Shared(nn.Module):
    """One BatchNorm after two convolutions."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 7)

    def forward(self, x):
        return self.fc(self.norm(self.b(self.norm(self.a(x)))).mean((2, 3)))


def test_a_shared_batch_norm_stays():
    assert foldable(warm_network(Shared(), SPEC), SPEC) == {}


def test_a_batch_norm_over_positions_is_not_taken_for_one_over_channels():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.norm, self.out = nn.Linear(16, 48), nn.BatchNorm1d(48), nn.Linear(48, 7)

        def forward(self, x):
            return self.out(self.norm(self.fc(x.flatten(1, 2))).mean(1))

    network = Positions()
    network.train()
    network(torch.randn(4, *SPEC.input_shape))
    assert foldable(network.eval(), SPEC) == {}
