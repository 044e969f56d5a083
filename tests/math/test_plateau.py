import pytest
import torch

from hast.math.plateau import Plateau, reduce_on_plateau


@pytest.mark.parametrize("patience", [0, 3])
def test_the_rate_follows_torchs_scheduler_step_by_step(patience):
    random = torch.Generator().manual_seed(0)
    losses = 5 * torch.exp(-torch.arange(120) / 30) + torch.rand(120, generator=random)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, patience=patience, min_lr=1e-4
    )
    state = Plateau.start(0.5, losses.device)
    rates = set()
    for loss in losses:
        scheduler.step(loss)
        state = reduce_on_plateau(state, loss, patience=patience, min_rate=1e-4)
        rates.add(state.rate.item())
        assert state.rate.item() == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-5)
    assert len(rates) > 2
