"""Learned rounding: which of its two neighbouring codes each weight takes.

Rounding to nearest makes every weight's own error smallest, and not the error of what is computed
with them: errors of weights that see correlated inputs add up, and one rounded the "wrong" way can
cancel others. Of the 2^n ways to round n weights up or down a good one is found by making the
choice soft: a weight takes

    code = floor + h(v),    h(v) = clip(1.2 sigmoid(t v) - 0.1, 0, 1)

where v is trained and starts so that floor + h is the unrounded weight. The stretch lets h reach 0
and 1 exactly, with slope 0 beyond: a decision that is clear stays.

At the end every h must be 0 or 1. The published way adds a penalty on values between, whose weight
has to be tuned against the size of the error and differs by network. Here the sigmoid gets steeper
instead, t = 1 at first and `sharpness` at the end: it pulls all that is undecided to the nearer
side while the others can still make up for it, and depends on no unit.

Source: Nagel et al., 2020, Up or Down? Adaptive Rounding (arXiv:2004.10568); the schedule is ours.
"""

import torch
from torch import Tensor

_STRETCH = 0.1


def soft_rounding(logit: Tensor, *, sharpness: float) -> Tensor:
    """How far each weight goes from the code below it to the one above, in [0, 1].

    Args:
        logit: v, any shape.
        sharpness: t.
    """
    stretched = (1 + 2 * _STRETCH) * torch.sigmoid(sharpness * logit) - _STRETCH
    return stretched.clamp(0.0, 1.0)


def rounding_logit(fraction: Tensor) -> Tensor:
    """v with `soft_rounding(v, sharpness=1)` equal to `fraction`.

    Args:
        fraction: in [0, 1), of a weight between two codes.
    """
    return torch.logit((fraction + _STRETCH) / (1 + 2 * _STRETCH))


def rounding_sharpness(progress: float, *, last: float) -> float:
    """t at a share of the steps, geometric from 1 to `last`.

    Args:
        progress: in [0, 1].
        last: at the end.
    """
    return float(last**progress)
