"""Losses by step, and how well the bank matches the teacher's BatchNorm layers."""

from collections.abc import Mapping, Sequence

from hast.report.figures.canvas import PALETTE, Figure, canvas, scale_by_log

Curve = Mapping[str, Sequence[float]]  # columns of equal length, `step` among them


def training_curves(curves: Mapping[str, Curve], *, columns: Sequence[str]) -> Figure:
    """Columns of curves by step, one panel a column, one line a run.

    Args:
        curves: by run.
        columns: what to show, such as `loss`.
    """
    with canvas(1, len(columns), width=3.4 * len(columns), height=2.6) as (figure, axes):
        for ax, column in zip(axes, columns, strict=True):
            for colour, (name, curve) in zip(PALETTE, curves.items(), strict=False):
                ax.plot(curve["step"], curve[column], color=colour, linewidth=0.8, alpha=0.3)
                mean = moving_mean(curve[column])
                ax.plot(curve["step"], mean, color=colour, linewidth=1.5, label=name)
            if all(value > 0 for curve in curves.values() for value in curve[column]):
                scale_by_log(ax)
            ax.set(xlabel="step", title=column.replace("_", " "))
            ax.grid(axis="y")
        if len(curves) > 1:
            axes[0].legend()
    return figure


def moving_mean(values: Sequence[float], *, window: int = 15) -> list[float]:
    """Mean of each value and its neighbours, fewer at the ends: a trend among noisy batches."""
    half = window // 2
    parts = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(part) / len(part) for part in parts]


def bns_gap(gaps: Sequence[float]) -> Figure:
    """Distance of the bank's statistics from the stored ones, a bar for each BatchNorm layer in the
    order in which they run."""
    with canvas(height=2.6) as (figure, (ax,)):
        ax.bar(range(len(gaps)), gaps, color=PALETTE[0])
        if min(gaps, default=0) > 0:
            scale_by_log(ax)
        ax.set(xlabel="BatchNorm layer, input to output", ylabel="BNS gap")
        ax.grid(axis="y")
    return figure


def fidelity_gap(shares: Mapping[str, Mapping[str, float]]) -> Figure:
    """Grouped bars of shares in [0, 1], such as agreement on the bank and on the test set.

    Args:
        shares: by network, then by set.
    """
    sets = [*next(iter(shares.values()))]
    with canvas(height=0.7 + 0.5 * len(shares)) as (figure, (ax,)):
        thickness = 0.8 / len(sets)
        for i, (name, colour) in enumerate(zip(sets, PALETTE, strict=False)):
            values = [by_set[name] for by_set in shares.values()]
            places = [row + (i - (len(sets) - 1) / 2) * thickness for row in range(len(shares))]
            bars = ax.barh(places, values, thickness * 0.9, label=name, color=colour)
            ax.bar_label(bars, [f"{value:.2%}" for value in values], padding=3, fontsize=8)
        ax.set_yticks(range(len(shares)), labels=[*shares])
        ax.invert_yaxis()
        lowest = min(value for by_set in shares.values() for value in by_set.values())
        room = max(0.02, 1 - lowest)
        ax.set_xlim(max(0.0, lowest - room / 2), 1.0 + room / 3)
        ax.set_xticks([tick for tick in ax.get_xticks() if ax.get_xlim()[0] <= tick <= 1])
        ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=len(sets))
    return figure
