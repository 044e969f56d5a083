"""Results, wall times and latency as tables, for the report and for the terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from hast.config.bit_width import FULL_PRECISION_BITS
from hast.files.tables import Latency, Timing
from hast.networks.coverage import LayerBits

RESULT_COLUMNS = ("network", "top-1", "before fine-tuning", "agreement", "bytes", "smaller")
EXPORT_COLUMNS = ("network", "format", "bytes", "smaller", "agreement, bank", "agreement, test")
_FORMATS = {"packed": "packed checkpoint", "onnx": "ONNX", "program": "torch.export"}
_RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}

Results = Mapping[str, Mapping[str, Any]]


def result_rows(results: Results) -> list[tuple[str, ...]]:
    """Cells of the results table.

    Args:
        results: `results.json` of the report: by network, `fp32` first, top1 and agreement in
            [0, 1].
    """
    full = results["fp32"]["size_bytes"]
    return [
        (
            "full precision" if name == "fp32" else name.upper(),
            _share(row.get("top1")),
            _share(row.get("top1_before_finetuning")),
            _share(row.get("agreement", row.get("bank_agreement"))),
            f"{row['size_bytes']:,}",
            f"{full / row['size_bytes']:.1f}x",
        )
        for name, row in results.items()
    ]


def markdown_table(results: Results) -> str:
    return markdown_rows([RESULT_COLUMNS, *result_rows(results)])


def markdown_rows(rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A table of the given cells; the first row is its header, `left` columns are names."""
    header, *body = rows
    rule = ("---",) * left + ("---:",) * (len(header) - left)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *body))


def export_rows(exports: Results) -> list[tuple[str, ...]]:
    """Bytes and compression of the forms of every student, and the share of the student's own first
    answers that the program gives that has the fewest.

    Args:
        exports: by width what `metrics/export` holds.
    """
    return [
        (
            width.upper(),
            _FORMATS[name],
            f"{measured['bytes']:,}",
            f"{measured['compression']:.1f}x",
            *(_least_agreement(measured.get(images, {})) for images in ("bank", "test")),
        )
        for width, formats in exports.items()
        for name, measured in formats.items()
    ]


def _least_agreement(programs: Results) -> str:
    return f"{min(p['agreement'] for p in programs.values()):.2%}" if programs else ""


def table_of(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1
) -> Table:
    """Rows of cells under named columns, of which `left` are names and the others numbers."""
    table = Table(title=title)
    for position, name in enumerate(columns):
        table.add_column(name, justify="right" if position >= left else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def results_table(results: Results) -> Table:
    """Accuracy, agreement with the teacher and size of every network."""
    images = results["fp32"]["samples"]
    title = f"Test split, {images} images" if images else "No test images: agreement on the bank"
    return table_of(title, RESULT_COLUMNS, result_rows(results))


def layers_table(layers: Iterable[LayerBits], *, title: str) -> Table:
    """Bits of every layer, its share of size and work, and how much of its work is low-bit."""
    columns = ("layer", "weight", "W", "A", "weights", "size", "MACs", "low-bit")
    rows = [
        (
            row.layer,
            row.shape,
            "fp32" if row.weight_bits == FULL_PRECISION_BITS else str(row.weight_bits),
            "" if row.act_bits is None else str(row.act_bits),
            f"{row.parameters:,}",
            f"{row.size_share:.1%}",
            f"{row.mac_share:.1%}",
            f"{row.low_bit:.0%}",
        )
        for row in layers
    ]
    table = table_of(title, columns, rows, left=2)
    table.columns[0].min_width = 16
    return table


def sizes_table(sizes: Mapping[str, int]) -> Table:
    """Bytes of a network by bit width, and how many times smaller that is."""
    rows = [(name, f"{size:,}", f"{sizes['fp32'] / size:.1f}x") for name, size in sizes.items()]
    return table_of("Size", ("bits", "bytes", "smaller"), rows)


def trials_table(trials: Iterable[Mapping[str, Any]], *, max_drop: float) -> Table:
    """What a search for the fewest bits has tried, as `hast quantize --json` prints it."""
    rows = [
        (
            trial["bits"].upper(),
            str(len(trial["overrides"]) or ""),
            f"{trial['size_bytes']:,}",
            f"{trial['drop']:.2%} ± {trial['margin']:.2%}",
            "yes" if trial["holds"] else "no",
        )
        for trial in trials
    ]
    columns = ("bits", "narrower layers", "bytes", "loses", "holds")
    return table_of(f"At most {max_drop:.2%} may be lost", columns, rows)


def timings_table(timings: Iterable[Timing], *, since: float) -> Table:
    """Wall time of every stage; what finished before `since` was not built again."""
    table = Table(title="Wall time inside the stages", show_footer=True)
    built = [t for t in timings if t.finished >= since]
    table.add_column("stage", footer="built now")
    table.add_column("seconds", justify="right", footer=f"{sum(t.seconds for t in built):.1f}")
    table.add_column("")
    for timing in timings:
        table.add_row(
            timing.stage, f"{timing.seconds:.1f}", "" if timing in built else "up to date"
        )
    return table


def latency_table(latency: Mapping[str, Latency]) -> Table:
    """Median milliseconds of a call, full precision and a student in turns, and times the speed of
    full precision."""
    rows = [
        (
            "full precision" if name == "fp32" else student,
            _RUNTIMES[runtime],
            *(_speed(times, name, batch) for batch in ("batch_1", "batch_64")),
        )
        for student, (runtime, times) in latency.items()
        for name in times
    ]
    columns = ("network", "runtime", "batch 1", "batch 64")
    return table_of("ONNX files on this machine's CPU", columns, rows, left=2)


def _speed(times: Mapping[str, Mapping[str, float]], name: str, batch: str) -> str:
    milliseconds = times[name][batch]
    faster = "" if name == "fp32" else f" ({times['fp32'][batch] / milliseconds:.2f}x)"
    return f"{milliseconds:.2f} ms{faster}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"
