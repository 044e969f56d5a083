"""Samples: what they look like, how many each class has, how hard they are and what that costs."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from hast.bank.stored import StoredBank
from hast.config.spec import ModelSpec
from hast.math.intervals import wilson_interval
from hast.report.figures.canvas import PALETTE, Axes, Figure, canvas, scale_by_log

_MOST_NAMES = 40  # more cannot be read
_MOST_CLASSES = 20  # more rows cannot be read
_DIFFICULTY = "difficulty 1 − p(label)"
_ASIDE = 0.012


def choose_samples(labels: Tensor, difficulty: Tensor, *, classes: int, columns: int) -> Tensor:
    """Samples that show every class from easy to hard.

    Args:
        labels: (N,).
        difficulty: (N,), in [0, 1].
        classes: rows; where there are more classes, evenly spaced ones are taken.
        columns: evenly spaced ranks of difficulty in a class.

    Returns:
        Indices (rows, columns), each row sorted by difficulty; -1 where a class has too few.
    """
    present = labels.unique()
    spaced = torch.linspace(0, len(present) - 1, min(classes, len(present))).round().long()
    rows = []
    for label in present[spaced].tolist():
        members = (labels == label).nonzero().flatten()
        members = members[difficulty[members].argsort(stable=True)]
        count = min(columns, len(members))
        ranks = torch.linspace(0, len(members) - 1, count).round().long()
        rows.append(torch.cat([members[ranks], torch.full((columns - count,), -1)]))
    return torch.stack(rows)


def bank_grid(bank: StoredBank, *, classes: int = 10, columns: int = 8) -> Figure:
    """Images by class (rows) and difficulty (columns, easy to hard), the difficulty under each.

    Args:
        bank: whose samples are shown; of its images only those are read.
        classes, columns: see `choose_samples`.
    """
    labels, difficulty, spec = bank.labels, bank.difficulty, bank.card.spec
    grid = choose_samples(labels, difficulty, classes=classes, columns=columns)
    size = {"width": 0.9 * columns + 0.6, "height": 0.98 * len(grid) + 0.2}
    with canvas(len(grid), columns, **size) as (figure, axes):
        for ax, index in zip(axes, grid.flatten().tolist(), strict=True):
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if index >= 0:
                _show(ax, spec.denormalize(bank.images[[index]])[0])
                ax.set_xlabel(f"{difficulty[index]:.2f}", fontsize=7, labelpad=1)
        for ax, row in zip(axes[::columns], grid, strict=True):
            name = _name(spec, int(labels[row[0]]))
            ax.set_ylabel(name[:14], rotation=0, ha="right", va="center")
    return figure


def _name(spec: ModelSpec, label: int) -> str:
    return spec.class_names[label] if spec.class_names else str(label)


def _show(ax: Axes, image: Tensor) -> None:
    """An image (C, H, W); one that is neither grey nor RGB is shown by its mean."""
    if len(image) != 3:
        image = image.mean(dim=0, keepdim=True)
    ax.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def class_balance(labels: Tensor, spec: ModelSpec) -> Figure:
    """Samples by class, with the number that an even share would be.

    Args:
        labels: (N,), in [0, K).
        spec: says what K is, and the names of the classes.
    """
    num_classes = spec.num_classes
    counts = torch.bincount(labels, minlength=num_classes).tolist()
    with canvas(height=2.6) as (figure, (ax,)):
        ax.bar(range(num_classes), counts, color=PALETTE[0])
        ax.axhline(len(labels) / num_classes, color=PALETTE[1], linewidth=1, label="even share")
        if spec.class_names and num_classes <= _MOST_NAMES:
            names = [name[:14] for name in spec.class_names]
            ax.set_xticks(range(num_classes), labels=names, rotation=90, fontsize=7)
        ax.set(xlabel="class", ylabel="samples")
        ax.grid(axis="y")
        ax.legend()
    return figure


def confusion_counts(labels: Tensor, answers: Tensor, *, num_classes: int) -> Tensor:
    """Counts (K, K): rows are labels, columns are answers, each (N,)."""
    pairs = labels * num_classes + answers
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def confusion_change(labels: Tensor, teacher: Tensor, student: Tensor, spec: ModelSpec) -> Figure:
    """Confusion counts of the student minus those of the teacher, where most changed.

    Args:
        labels, teacher, student: (N,), the label and the two answers.
        spec: says what K is, and the names of the classes; of more than 20 classes those are shown
            whose row or column changed most.
    """
    change = confusion_counts(labels, student, num_classes=spec.num_classes)
    change = change - confusion_counts(labels, teacher, num_classes=spec.num_classes)
    moved = change.abs().sum(0) + change.abs().sum(1)
    shown = moved.argsort(descending=True, stable=True)[:_MOST_CLASSES].sort().values
    part = change[shown][:, shown]
    names = [_name(spec, label) for label in shown.tolist()]

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


def difficulty_histogram(series: Mapping[str, Tensor], *, bins: int = 20) -> Figure:
    """Share of samples by difficulty, one outline for each set of samples.

    Args:
        series: by name, difficulty (N,) in [0, 1].
        bins: equal ones over [0, 1].
    """
    edges = torch.linspace(0, 1, bins + 1).tolist()
    with canvas() as (figure, (ax,)):
        smallest = 1.0
        for colour, (name, values) in zip(PALETTE, series.items(), strict=False):
            shares = torch.histc(values.float(), bins, min=0, max=1) / len(values)
            smallest = min(smallest, 1 / len(values))
            ax.stairs(shares.tolist(), edges, label=name, color=colour, linewidth=1.5)
        # Nearly all samples of an easy set fall into one bin; on a linear axis nothing else shows.
        ax.set(xlim=(0, 1), ylim=(smallest / 2, 1.5), xlabel=_DIFFICULTY, ylabel="share of samples")
        scale_by_log(ax)
        ax.grid(axis="y")
        ax.legend()
    return figure


def error_by_difficulty(
    difficulty: Tensor, wrong: Mapping[str, Tensor], *, bins: int = 10
) -> Figure:
    """Share of wrong answers among samples of equal difficulty, with 95 % intervals.

    Args:
        difficulty: (N,) in [0, 1], under the teacher.
        wrong: by network, (N,) bool.
        bins: equal ones over [0, 1]; empty ones are left out.
    """
    where = (difficulty * bins).long().clamp(max=bins - 1)
    counts = torch.bincount(where, minlength=bins).tolist()
    filled = [i for i in range(bins) if counts[i]]
    with canvas() as (figure, (ax,)):
        for i, (name, errors) in enumerate(wrong.items()):
            failed = torch.bincount(where[errors], minlength=bins).tolist()
            shares = [failed[b] / counts[b] for b in filled]
            intervals = [wilson_interval(failed[b], counts[b]) for b in filled]
            aside = _ASIDE * (i - (len(wrong) - 1) / 2)  # or intervals would hide each other
            ax.errorbar(
                [(b + 0.5) / bins + aside for b in filled],
                shares,
                yerr=np.abs(np.transpose(intervals) - shares),
                label=name, color=PALETTE[i % len(PALETTE)],
                marker="o", markersize=4, capsize=2, linestyle="none",
            )  # fmt: skip
        for b in filled:
            place = ((b + 0.5) / bins, 1.05)
            ax.annotate(f"{counts[b]:,}", place, ha="center", fontsize=7, annotation_clip=False)
        ax.set(xlim=(0, 1), ylim=(-0.02, 1.02), xlabel=f"{_DIFFICULTY} under the teacher")
        ax.set_ylabel("share of errors")
        ax.grid(axis="y")
        ax.legend()
    return figure
