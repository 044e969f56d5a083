"""How many samples each class has."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hast.report.figures.canvas import PALETTE, Figure, canvas

_MOST_NAMES = 40  # more cannot be read
_MOST_CLASSES = 20  # more rows cannot be read


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


def confusion_counts(labels: Tensor, answers: Tensor, *, num_classes: int) -> Tensor:
    """Counts (K, K): rows are labels, columns are answers, each (N,)."""
    pairs = labels * num_classes + answers
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def confusion_change(
    labels: Tensor,
    teacher: Tensor,
    student: Tensor,
    *,
    num_classes: int,
    class_names: Sequence[str] = (),
) -> Figure:
    """Confusion counts of the student minus those of the teacher, where most changed.

    Args:
        labels, teacher, student: (N,), the label and the two answers.
        num_classes: K; of more than 20 classes those are shown whose row or column changed most.
        class_names: K names, or empty.
    """
    change = confusion_counts(labels, student, num_classes=num_classes)
    change = change - confusion_counts(labels, teacher, num_classes=num_classes)
    moved = change.abs().sum(0) + change.abs().sum(1)
    shown = moved.argsort(descending=True, stable=True)[:_MOST_CLASSES].sort().values
    part = change[shown][:, shown]
    names = [class_names[i] if class_names else str(i) for i in shown.tolist()]

    side = 1.6 + 0.28 * len(shown)
    with canvas(width=side + 0.8, height=side) as (figure, (ax,)):
        limit = max(1, int(part.abs().max()))
        picture = ax.imshow(part.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
        for row, column in part.nonzero().tolist():
            count = int(part[row, column])
            colour = "white" if abs(count) > 0.6 * limit else "black"
            ax.text(column, row, f"{count:+d}", ha="center", va="center", fontsize=7, color=colour)
        places = range(len(shown))
        ax.set_xticks(places, labels=names, rotation=90 if max(map(len, names)) > 2 else 0)
        ax.set_yticks(places, labels=names)
        ax.set(xlabel="answer", ylabel="label")
        ticks = sorted({-limit, -(limit // 2), 0, limit // 2, limit})
        label = "images more (+) or fewer (−)"
        figure.colorbar(picture, ax=ax, shrink=0.8, ticks=ticks, label=label)
    return figure
