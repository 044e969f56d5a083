import pytest
import torch
from conftest import refused
from students import count_hooks
from torch import nn

from hast.math.statistics import bns_loss
from hast.networks.batch_norm import batch_norms, folded_statistics, freeze, tap_batch_norm_inputs
from hast.networks.classifier import require_batch_norm


def test_folded_layers_answer_as_before_and_are_themselves_again_after(teacher):
    x = torch.randn(4, 1, 8, 8)
    expected = teacher(x)
    with folded_statistics(teacher):
        assert torch.allclose(teacher(x), expected, atol=1e-5)
        assert any("forward" in vars(m) for m in teacher.modules())
    assert torch.equal(teacher(x), expected)
    assert not any("forward" in vars(m) for m in teacher.modules())


def test_the_loss_vanishes_on_data_with_the_stored_statistics():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, momentum=None))
    x = torch.randn(64, 1, 4, 4)
    network.train()(x)
    freeze(network)
    with tap_batch_norm_inputs(network) as tap:
        network(x)
        assert bns_loss(tap).item() == pytest.approx(0, abs=1e-4)
        network(x + 5)  # a second pass replaces the first
        assert len(tap) == 1
        assert bns_loss(tap).item() > 0.1


def test_hooks_are_gone_afterwards_also_after_an_error(teacher):
    before = count_hooks(teacher)
    with tap_batch_norm_inputs(teacher):
        assert sum(count_hooks(teacher)) > sum(before)
        with pytest.raises(RuntimeError):
            teacher(torch.zeros(1, 5, 8, 8))
    assert count_hooks(teacher) == before


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, track_running_stats=False)),
    ],
)
def test_where_no_statistics_are_stored_none_are_found_and_what_needs_them_is_refused(network):
    assert batch_norms(network) == []
    with refused(r"no BatchNorm layer .* bank\.source: FOLDER"):
        require_batch_norm(network, (1, 4, 4))
