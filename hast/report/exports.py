"""What the exported forms of the students are worth, as rows of a table."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from hast.report.tables import FORMATS

_HEADER = ("network", "format", "bytes", "smaller", "agreement, bank", "agreement, test")


class ExportRow(NamedTuple):
    """One form of one student, in words."""

    network: str
    format: str
    bytes: str
    compression: str  # against the full-precision network
    bank: str  # share of the student's own first answers, of the program that has the fewest
    test: str


def export_table(exports: Mapping[str, Mapping[str, Any]]) -> list[ExportRow]:
    """Rows by width and format.

    Args:
        exports: by width what `metrics/export` holds.
    """
    return [
        ExportRow(
            network=width.upper(),
            format=FORMATS[name],
            bytes=f"{measured['bytes']:,}",
            compression=f"{measured['compression']:.1f}x",
            bank=_agreement(measured, "bank"),
            test=_agreement(measured, "test"),
        )
        for width, formats in exports.items()
        for name, measured in formats.items()
    ]


def export_markdown(rows: list[ExportRow]) -> str:
    lines = [_HEADER, ("---", "---") + ("---:",) * (len(_HEADER) - 2), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _agreement(measured: Mapping[str, Any], images: str) -> str:
    programs = measured.get(images, {})
    return f"{min(p['agreement'] for p in programs.values()):.2%}" if programs else ""
