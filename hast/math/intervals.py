"""How much a share that was counted on few images can be trusted."""

import math
import statistics
from collections.abc import Sequence

from torch import Tensor

_Z = 1.959964  # of the normal distribution, for 95 %


def wilson_interval(count: int, trials: int) -> tuple[float, float]:
    """95 % interval of a share that was seen `count` times in `trials`, within [0, 1].

    Source: Wilson, JASA 1927.
    """
    share, spread = count / trials, _Z * _Z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def paired_margin(only_first: int, only_second: int, trials: int) -> float:
    """Half-width of the 95 % interval of the difference of two accuracies on the same images.

    Only images on which the two differ tell anything. Source: Agresti, Categorical Data Analysis,
    section 11.1 (Wald interval of matched pairs).

    Args:
        only_first, only_second: images that only one of the networks gets right.
        trials: all images.
    """
    differing = only_first + only_second
    return _Z * math.sqrt(differing - (only_first - only_second) ** 2 / trials) / trials


def paired_drop(before: Tensor, after: Tensor) -> tuple[float, float]:
    """What is lost from one network to another, as a share of all images, and half of its interval.

    Args:
        before, after: (N,) bool, which images each of them gets right.
    """
    lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
    return (lost - gained) / len(before), paired_margin(lost, gained, len(before))


def mean_margin(values: Sequence[float]) -> float:
    """Half-width of the 95 % interval of a mean of independent values; infinite for less than 2."""
    if len(values) < 2:
        return math.inf
    return _Z * statistics.stdev(values) / math.sqrt(len(values))
