"""Reduce-on-plateau as a pure function of tensors.

torch's scheduler compares Python numbers, so each of the hundreds of steps of a batch would wait
for the device to hand over its loss. Here the state stays on the device and the comparison is
`torch.where`: the same rule, and the queue of kernels never runs dry.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_FACTOR = 0.1
_THRESHOLD = 1e-4  # relative improvement that counts
_MIN_CHANGE = 1e-8  # of the rate


class Plateau(NamedTuple):
    """Scalars on the device of the loss."""

    rate: Tensor
    best: Tensor
    bad_steps: Tensor

    @classmethod
    def start(cls, rate: float, device: torch.device) -> "Plateau":
        values = (rate, torch.inf, 0.0)
        return cls(*(torch.tensor(value, device=device) for value in values))


def reduce_on_plateau(state: Plateau, loss: Tensor, *, patience: int, min_rate: float) -> Plateau:
    """The rate drops to a tenth after more than `patience` steps without improvement.

    The rule of `torch.optim.lr_scheduler.ReduceLROnPlateau` with its defaults.
    """
    better = loss < state.best * (1 - _THRESHOLD)
    bad_steps = torch.where(better, 0.0, state.bad_steps + 1)
    lowered = (state.rate * _FACTOR).clamp(min=min_rate)
    drops = (bad_steps > patience) & (state.rate - lowered > _MIN_CHANGE)
    return Plateau(
        rate=torch.where(drops, lowered, state.rate),
        best=torch.where(better, loss, state.best),
        bad_steps=torch.where(bad_steps > patience, 0.0, bad_steps),
    )
