"""How hard samples are, and what that costs."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hast.math.intervals import wilson_interval
from hast.report.figures.canvas import PALETTE, Figure, canvas, scale_by_log

_DIFFICULTY = "difficulty 1 − p(label)"
_ASIDE = 0.012


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
                yerr=[
                    [share - low for share, (low, _) in zip(shares, intervals, strict=True)],
                    [high - share for share, (_, high) in zip(shares, intervals, strict=True)],
                ],
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
