"""Put the page together."""

from typing import Any

from hast.loops.layer_errors import worst_layers
from hast.report.bank_page import bank_grid
from hast.report.figures.canvas import Figure
from hast.report.figures.classes import confusion_change
from hast.report.figures.difficulty import difficulty_histogram, error_by_difficulty
from hast.report.figures.training import bns_gap, fidelity_gap, training_curves
from hast.report.provenance import provenance_of
from hast.report.record import Row, Run
from hast.report.results import verdict
from hast.report.tables import export_rows
from hast.report.template import fill

_RATIOS = ("weight_sqnr", "output_sqnr")
_CURVES = ("loss", "distillation", "alignment")


def render(run: Run, results: dict[str, dict[str, Any]]) -> str:
    """The report as one HTML page that loads nothing.

    Args:
        run: what the stages wrote.
        results: see `hast.report.results.results_of`.

    Raises:
        InputError: Jinja2 or matplotlib is not installed.
    """
    measured = results["fp32"]["samples"] > 0
    return fill(
        "report.html.j2",
        run=run,
        results=results,
        measured=measured,
        students={name: row for name, row in results.items() if name != "fp32"},
        verdicts=[verdict(name, row) for name, row in results.items() if name != "fp32"],
        figures=_figures(run) | (_figures_of_test_images(run) if measured else {}),
        layers={width.name: marked(width.layers) for width in run.widths},
        exports=export_rows(run.exports),
        provenance=provenance_of(run),
    )


def _figures(run: Run) -> dict[str, Figure]:
    difficulty = {"bank, teacher": run.bank.difficulty}
    difficulty |= {f"bank, {w.name.upper()} before fine-tuning": w.difficulty for w in run.widths}
    seen = run.widths[0].seen
    if len(seen.labels):
        difficulty["test images, teacher"] = seen.difficulty["teacher"]
    curves = {width.name.upper(): width.curve for width in run.widths}
    figures = {
        "samples": bank_grid(run.bank),
        "difficulty": difficulty_histogram(difficulty),
        "curves": training_curves(curves, columns=_CURVES),
        "bns": bns_gap(run.gaps),
    }
    if run.generator_curve:
        curve = {"generator": run.generator_curve}
        figures["generator"] = training_curves(curve, columns=("cross_entropy", "bns"))
    return figures


def _figures_of_test_images(run: Run) -> dict[str, Any]:
    spec, seen = run.bank.card.spec, run.widths[0].seen
    wrong = {"teacher": ~seen.correct("teacher")}
    wrong |= {width.name.upper(): ~width.seen.correct("student") for width in run.widths}
    agreement = {
        width.name.upper(): {
            "bank, which it was trained on": width.measured["bank"]["student"]["agreement"],
            "test images": width.measured["student"]["agreement"],
        }
        for width in run.widths
    }
    return {
        "errors": error_by_difficulty(seen.difficulty["teacher"], wrong),
        "fidelity": fidelity_gap(agreement),
        "confusion": {
            width.name: confusion_change(
                width.seen.labels,
                width.seen.answers["teacher"],
                width.seen.answers["student"],
                num_classes=spec.num_classes,
                class_names=spec.class_names,
            )
            for width in run.widths
        },
    }


def marked(layers: list[Row]) -> list[Row]:
    """The rows with `worst`: the measures in which a layer is among the tenth that suffers most."""
    worst = {
        key: worst_layers({row["layer"]: float(row[key] or "nan") for row in layers})
        for key in _RATIOS
    }
    return [
        row | {"worst": [key for key in _RATIOS if row["layer"] in worst[key]]} for row in layers
    ]
