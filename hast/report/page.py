"""The pages about a run and about a bank: one file each, that loads nothing."""

from pathlib import Path
from typing import Any

from hast.bank.facts import bank_facts, facts_rows
from hast.bank.stored import StoredBank
from hast.errors import needs
from hast.loops.layer_errors import worst_layers
from hast.report import templates
from hast.report.figures.canvas import Figure, to_data_uri, to_png, to_svg
from hast.report.figures.samples import (
    class_balance,
    confusion_change,
    difficulty_histogram,
    error_by_difficulty,
    sample_grid,
)
from hast.report.figures.training import bns_gap, fidelity_gap, training_curves
from hast.report.provenance import provenance_of
from hast.report.record import Row, Run
from hast.report.results import verdict
from hast.report.tables import export_rows

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
    return _fill(
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
        difficulty["test images, teacher"] = seen.difficulty
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
        "errors": error_by_difficulty(seen.difficulty, wrong),
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


def bank_grid(bank: StoredBank, *, classes: int = 10, columns: int = 8) -> Figure:
    """Samples in pixel space, a row a class, from easy to hard. Only what is shown is read.

    Args:
        bank: on disk.
        classes: rows; of more classes evenly spaced ones are shown.
        columns: samples of a class.
    """
    spec = bank.card.spec
    return sample_grid(
        bank.images, bank.labels, bank.difficulty,
        to_pixels=spec.denormalize, class_names=spec.class_names, classes=classes, columns=columns,
    )  # fmt: skip


def bank_page(bank: StoredBank) -> str:
    """Provenance, samples, difficulty, class balance and BNS gap as one HTML page.

    Raises:
        InputError: Jinja2 is not installed.
    """
    spec = bank.card.spec
    figures = {
        "samples": bank_grid(bank),
        "difficulty": difficulty_histogram({"bank": bank.difficulty}),
        "classes": class_balance(
            bank.labels, num_classes=spec.num_classes, class_names=spec.class_names
        ),
        "bns": bns_gap([] if bank.bns_gap is None else bank.bns_gap.tolist()),
    }
    rows = facts_rows(bank_facts(bank))
    return _fill("bank.html.j2", bank=bank, rows=rows, figures=figures)


def _fill(name: str, **values: Any) -> str:
    """The template `name` as an HTML page.

    Raises:
        InputError: Jinja2 is not installed.
    """
    with needs("'hast[report]'"):
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    loader = FileSystemLoader(Path(templates.__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "share": lambda value: _known(value, ".2%"),
        "svg": lambda figure, name, caption: Markup(to_svg(figure, name, description=caption)),
        "png": lambda figure: to_data_uri(to_png(figure, dpi=110)),
        "decibel": lambda value: _known(value, ".1f"),
        "number": lambda value: _known(value, ".3g"),
    }
    return environment.get_template(name).render(**values)


def _known(value: Any, form: str) -> str:
    """A number or its text; nothing for what is not known."""
    number = float(value) if value not in (None, "") else float("nan")
    return "" if number != number else format(number, form)
