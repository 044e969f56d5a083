import pytest
import torch

from hast.math.statistics import (
    BatchNormCall,
    ChannelStatistics,
    bns_gap,
    bns_loss,
    channel_statistics,
    relative_bns_gap,
)


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
    calls = [BatchNormCall(batch, near, eps=0.0) for batch in (near, far)]
    assert bns_gap(calls[0]).item() == 0
    assert bns_gap(calls[1]).item() == pytest.approx((1 + 9) / 2 + (0 + 4) / 2)
    assert bns_loss(calls).item() == pytest.approx(7 / 2)


def statistics_of(x: torch.Tensor, scale: torch.Tensor) -> ChannelStatistics:
    return channel_statistics(x * scale.view(1, -1, 1, 1), around=scale)


def test_the_relative_loss_knows_no_units():
    """A convolution times s, its BatchNorm's statistics and eps by s and s^2: the same network."""
    x = torch.randn(8, 3, 5, 5)
    running = ChannelStatistics(torch.tensor([0.5, -1.0, 2.0]), torch.tensor([1.0, 4.0, 0.0]))
    one = torch.ones(3)
    losses, absolute = [], []
    for s in (1e-3, 1.0, 1e3):
        scaled = ChannelStatistics(running.mean * s, running.var * s**2)
        calls = [BatchNormCall(statistics_of(x, one * s), scaled, 1e-3 * s**2)]
        losses.append(bns_loss(calls, relative=True).item())
        absolute.append(bns_loss(calls).item())
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)
    assert absolute[2] > 1e9 * absolute[0]


def test_a_dead_or_distant_channel_has_a_bounded_share_and_a_slope():
    running = ChannelStatistics(torch.zeros(2), torch.tensor([1.0, 0.0]))
    mean = torch.tensor([0.0, 1e4], requires_grad=True)
    batch = ChannelStatistics(mean, torch.tensor([1.0, 0.0]))
    gap = relative_bns_gap(BatchNormCall(batch, running, eps=1e-5))
    gap.backward()
    assert gap.item() < 200
    assert mean.grad is not None
    assert mean.grad[1] > 0
