import pytest
import torch

from hast.math.statistics import ChannelStatistics, bns_gap, bns_loss, channel_statistics


@pytest.mark.parametrize("shape", [(16, 3), (16, 3, 5, 7)])
def test_variance_is_biased_and_per_channel(shape):
    x = torch.randn(shape) * 3 + 1
    flat = x.transpose(0, 1).reshape(3, -1)
    statistics = channel_statistics(x, around=torch.tensor([1.0, 0.5, 2.0]))
    assert torch.allclose(statistics.mean, flat.mean(1), atol=1e-6)
    assert torch.allclose(statistics.var, flat.var(1, correction=0), atol=1e-5)


def test_a_mean_far_from_zero_costs_no_precision():
    x = torch.randn(64, 2, 8, 8) * 1e-2 + 1000
    statistics = channel_statistics(x, around=torch.tensor([1000.0, 1000.1]))
    exact = x.double().var((0, 2, 3), correction=0).float()
    assert torch.allclose(statistics.var, exact, rtol=1e-3)


def test_loss_is_the_mean_over_layers_of_both_squared_errors():
    near = ChannelStatistics(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0]))
    far = ChannelStatistics(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 3.0]))
    assert bns_gap(near, near).item() == 0
    assert bns_gap(far, near).item() == pytest.approx((1 + 9) / 2 + (0 + 4) / 2)
    assert bns_loss([near, far], [near, near]).item() == pytest.approx(7 / 2)
