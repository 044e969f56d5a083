"""The results table, for the report and for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

_HEADER = ("network", "top-1", "before fine-tuning", "agreement", "bytes", "smaller")


def result_rows(results: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Cells of the table, the full-precision network first.

    Args:
        results: `results.json` of the report: by network, top1 and agreement in [0, 1].
    """
    full = results["fp32"]["size_bytes"]
    order = ["fp32", *(name for name in results if name != "fp32")]
    return [_cells(name, results[name], full) for name in order]


def markdown_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [_HEADER, ("---",) + ("---:",) * (len(_HEADER) - 1), *result_rows(results)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def terminal_tables(
    results: Mapping[str, Mapping[str, Any]], seconds: Mapping[str, float | None]
) -> tuple[Table, Table]:
    """Results, and the wall time of every stage; None stands for a stage taken from the cache."""
    networks = Table(title="Results on the test split")
    for position, name in enumerate(_HEADER):
        networks.add_column(name, justify="right" if position else "left")
    for row in result_rows(results):
        networks.add_row(*row)

    times = Table(title="Wall time")
    times.add_column("stage")
    times.add_column("seconds", justify="right")
    for stage, wall in seconds.items():
        times.add_row(stage, "cached" if wall is None else f"{wall:.1f}")
    times.add_row("total", f"{sum(wall or 0 for wall in seconds.values()):.1f}")
    return networks, times


def _cells(name: str, row: Mapping[str, Any], full_size: int) -> tuple[str, ...]:
    before = row.get("top1_before_finetuning")
    return (
        "full precision" if name == "fp32" else name.upper(),
        f"{row['top1']:.2%}",
        "" if before is None else f"{before:.2%}",
        f"{row['agreement']:.2%}",
        f"{row['size_bytes']:,}",
        f"{full_size / row['size_bytes']:.1f}x",
    )
