"""Profile a bank under its teacher: how hard is every sample, and how well do its batches match
each BatchNorm layer, where there is one?

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

    labels: Tensor  # (N,) int64
    difficulty: Tensor  # (N,) 1 - p(y) under the teacher, in [0, 1]
    bns_gap: Tensor | None  # (L,) of every BatchNorm call; None where there is none


@loop
def profile_batches(
    teacher: nn.Module, batches: Iterable[tuple[Tensor, Tensor | None]]
) -> Iterator[Profile]:
    """One record a batch.

    Args:
        teacher: frozen, eval mode.
        batches: images (B, C, H, W), normalized pixels, with labels (B,), None for the teacher's
            answers; in the batches in which they were optimised, for statistics depend on them.
    """
    device = device_of(teacher)
    with tap_batch_norm_inputs(teacher) as tap:
        for images, labels in batches:
            with torch.no_grad():
                logits = teacher(images.to(device)).float()
            gaps = [bns_gap(call) for call in tap]
            labels = logits.argmax(dim=1) if labels is None else labels.to(device)
            difficulty = sample_difficulty(logits, labels)
            gap = torch.stack(gaps).cpu() if gaps else None
            yield Profile(labels.cpu(), difficulty.cpu(), gap)


def whole_profile(parts: Iterable[Profile]) -> Profile:
    """Of the bank: samples one after the other, the mean of the gaps of all batches."""
    labels, difficulties, gaps = zip(*parts, strict=True)
    gap = None if gaps[0] is None else torch.stack(gaps).mean(dim=0)
    return Profile(torch.cat(labels), torch.cat(difficulties), gap)
