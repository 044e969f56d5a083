"""What the exported forms of the students are worth, as rows of a table."""

from collections.abc import Mapping
from typing import Any, NamedTuple

_NAMES = {
    "packed": "packed checkpoint",
    "onnx": "ONNX",
    "onnxruntime-cpu": "ONNX for ONNX Runtime's CPU",
    "program": "torch.export",
}
_HEADER = (
    "network", "format", "bytes", "smaller", "agreement, bank", "agreement, test", "batch 1",
    "batch 64",
)  # fmt: skip


class ExportRow(NamedTuple):
    """One form of one student, in words."""

    network: str
    format: str
    bytes: str
    compression: str  # against the full-precision network
    bank: str  # share of the student's own first answers, of the program that has the fewest
    test: str
    batch_1: str  # milliseconds, and times the speed of the full-precision network
    batch_64: str


def export_table(
    exports: Mapping[str, Mapping[str, Any]], latency: Mapping[str, Mapping[str, Any]]
) -> list[ExportRow]:
    """Rows by width and format, with a row of full precision where its latency is known.

    Args:
        exports: by width what `metrics/export` holds.
        latency: by width what `metrics/latency` holds.
    """
    rows = []
    for width, formats in exports.items():
        times = latency.get(width, {})
        if "fp32" in times:
            full = (_speed(times, "fp32", batch) for batch in ("batch_1", "batch_64"))
            rows.append(ExportRow(width.upper(), "full precision in ONNX", "", "", "", "", *full))
        for name, measured in formats.items():
            rows.append(
                ExportRow(
                    network=width.upper(),
                    format=_NAMES[name],
                    bytes=f"{measured['bytes']:,}",
                    compression=f"{measured['compression']:.1f}x",
                    bank=_agreement(measured, "bank"),
                    test=_agreement(measured, "test"),
                    batch_1=_speed(times, name, "batch_1"),
                    batch_64=_speed(times, name, "batch_64"),
                )
            )
    return rows


def export_markdown(rows: list[ExportRow]) -> str:
    lines = [_HEADER, ("---", "---") + ("---:",) * (len(_HEADER) - 2), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _agreement(measured: Mapping[str, Any], images: str) -> str:
    programs = measured.get(images, {})
    return f"{min(p['agreement'] for p in programs.values()):.2%}" if programs else ""


def _speed(times: Mapping[str, Any], name: str, batch: str) -> str:
    if name not in times:
        return ""
    milliseconds = times[name][batch]
    faster = "" if name == "fp32" else f" ({times['fp32'][batch] / milliseconds:.2f}x)"
    return f"{milliseconds:.2f} ms{faster}"
