"""How many samples each class has."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hast.report.figures.canvas import PALETTE, Figure, canvas

_MOST_NAMES = 40  # more cannot be read


def class_balance(labels: Tensor, *, num_classes: int, class_names: Sequence[str] = ()) -> Figure:
    """Samples by class, with the number that an even share would be.

    Args:
        labels: (N,), in [0, K).
        num_classes: K.
        class_names: K names, or empty.
    """
    counts = torch.bincount(labels, minlength=num_classes).tolist()
    with canvas(height=2.6) as (figure, (ax,)):
        ax.bar(range(num_classes), counts, color=PALETTE[0])
        ax.axhline(len(labels) / num_classes, color=PALETTE[1], linewidth=1, label="even share")
        if class_names and num_classes <= _MOST_NAMES:
            names = [name[:14] for name in class_names]
            ax.set_xticks(range(num_classes), labels=names, rotation=90, fontsize=7)
        ax.set(xlabel="class", ylabel="samples")
        ax.grid(axis="y")
        ax.legend()
    return figure
