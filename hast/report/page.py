"""Put the page together."""

from typing import Any

from hast.loops.layer_errors import worst_layers
from hast.report.provenance import provenance_of
from hast.report.record import Row, Run
from hast.report.results import verdict
from hast.report.sections import chapters
from hast.report.tables import export_rows
from hast.report.template import fill

_RATIOS = ("weight_sqnr", "output_sqnr")
_COLUMNS = ("shape", "weight_bits", "act_bits", "act_minimum", "act_maximum", *_RATIOS)


def render(run: Run, results: dict[str, dict[str, Any]]) -> str:
    """The report as one HTML page that loads nothing.

    Args:
        run: what the stages wrote.
        results: see `hast.report.results.results_of`.

    Raises:
        InputError: Jinja2 or matplotlib is not installed.
    """
    return fill(
        "report.html.j2",
        run=run,
        results=results,
        students={name: row for name, row in results.items() if name != "fp32"},
        verdicts=[verdict(name, row) for name, row in results.items() if name != "fp32"],
        chapters=chapters(run),
        layers={width.name: marked(width.layers) for width in run.widths},
        exports=export_rows(run.exports),
        provenance=provenance_of(run),
    )


def marked(layers: list[Row]) -> list[Row]:
    """The rows with `worst`: the measures in which a layer is among the tenth that suffers most."""
    worst = {
        key: worst_layers({row["layer"]: float(row.get(key, "nan")) for row in layers})
        for key in _RATIOS
    }
    # A module that is only quantized at its output (placement `relu`) has no row of its own bits.
    blank = dict.fromkeys((*_COLUMNS, "size_share", "mac_share", "low_bit"), "")
    return [
        blank | row | {"worst": [key for key in _RATIOS if row["layer"] in worst[key]]}
        for row in layers
    ]
