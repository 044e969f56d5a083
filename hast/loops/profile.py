"""Profile a bank under its teacher: how hard is every sample, and how well do its batches match
each BatchNorm layer?

The gap is measured in the batches in which the pixels were optimised. In other batches, or in one
of all images, the statistics are others, and the figure could not be compared with the loss that
the synthesis ended at.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hast.engine.runtime import device_of, loop
from hast.math.hardness import sample_difficulty
from hast.math.statistics import bns_gap
from hast.networks.batch_norm import tap_batch_norm_inputs


class Profile(NamedTuple):
    """Of one batch, or of a bank; on the CPU."""

    difficulty: Tensor  # (N,) 1 - p(y) under the teacher, in [0, 1]
    bns_gap: Tensor  # (L,) of every BatchNorm call


@loop
def profile_batches(
    teacher: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]
) -> Iterator[Profile]:
    """One record a batch.

    Args:
        teacher: frozen, eval mode.
        batches: images (B, C, H, W), normalized pixels, with labels (B,); in the batches in which
            they were optimised, for statistics depend on them.
    """
    device = device_of(teacher)
    with tap_batch_norm_inputs(teacher) as tap:
        for images, labels in batches:
            with torch.no_grad():
                logits = teacher(images.to(device))
            gaps = [bns_gap(b, r) for b, r in zip(tap.batch, tap.running, strict=True)]
            difficulty = sample_difficulty(logits.float(), labels.to(device))
            yield Profile(difficulty.cpu(), torch.stack(gaps).cpu())


def whole_profile(parts: Iterable[Profile]) -> Profile:
    """Of the bank: difficulties one after the other, the mean of the gaps of all batches."""
    difficulties, gaps = zip(*parts, strict=True)
    return Profile(torch.cat(difficulties), torch.stack(gaps).mean(dim=0))
