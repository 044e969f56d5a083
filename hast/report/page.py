"""The pages about a run and about a bank: one file each, that loads nothing."""

from pathlib import Path
from typing import Any

import torch

from hast.bank.facts import bank_facts, facts_rows
from hast.bank.stored import StoredBank
from hast.config.recipes import recipe_of
from hast.config.section import flattened
from hast.engine.engine import select_device
from hast.engine.machine import changed_files, device_name, git, library_versions
from hast.errors import needs
from hast.loops.layer_errors import worst_layers
from hast.report import templates
from hast.report.figures import samples, training
from hast.report.figures.canvas import Figure, to_data_uri, to_png, to_svg
from hast.report.record import Row, Run, verdict
from hast.report.tables import export_rows

_RATIOS = ("weight_sqnr", "output_sqnr")
_CURVES = ("loss", "distillation", "alignment")


def render(run: Run, results: dict[str, dict[str, Any]]) -> str:
    """The report as one HTML page that loads nothing.

    Args:
        run: what the stages wrote.
        results: see `hast.report.record.results_of`.

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
        provenance=_provenance(run),
    )


def _figures(run: Run) -> dict[str, Figure]:
    difficulty = {"bank, teacher": run.bank.difficulty}
    difficulty |= {f"bank, {w.name.upper()} before fine-tuning": w.difficulty for w in run.widths}
    seen = run.widths[0].seen
    if len(seen.labels):
        difficulty["test images, teacher"] = seen.difficulty
    curves = {width.name.upper(): width.curve for width in run.widths if width.curve}
    figures = {
        "samples": samples.bank_grid(run.bank),
        "difficulty": samples.difficulty_histogram(difficulty),
        "bns": training.bns_gap(run.gaps),
    }
    if curves:
        figures["curves"] = training.training_curves(curves, columns=_CURVES)
    if run.generator_curve:
        curve = {"generator": run.generator_curve}
        figures["generator"] = training.training_curves(curve, columns=("cross_entropy", "bns"))
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
        "errors": samples.error_by_difficulty(seen.difficulty, wrong),
        "fidelity": training.fidelity_gap(agreement),
        "confusion": {
            width.name: samples.confusion_change(width.seen.labels, **width.seen.answers, spec=spec)
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


def _provenance(run: Run) -> dict[str, Any]:
    """Facts about a run; those of machine and repository are the current ones."""
    threads = torch.get_num_threads()
    parameters = flattened(run.params)
    return {
        "commit": git("rev-parse", "HEAD", folder=Path.cwd()),  # of the project's Git repository
        "uncommitted": bool(changed_files(Path.cwd())),  # whether files differ from it
        "hardware": f"{device_name(select_device())}, {threads} thread{'s' * (threads != 1)}",
        "libraries": library_versions(),
        "recipe": recipe_of(run.params),
        "parameters": parameters,
        "seeds": {n.removesuffix(".seed"): v for n, v in parameters if n.endswith(".seed")},
    }


def bank_page(bank: StoredBank) -> str:
    """Provenance, samples, difficulty, class balance and BNS gap as one HTML page.

    Raises:
        InputError: Jinja2 is not installed.
    """
    figures = {
        "samples": samples.bank_grid(bank),
        "difficulty": samples.difficulty_histogram({"bank": bank.difficulty}),
        "classes": samples.class_balance(bank.labels, bank.card.spec),
        "bns": training.bns_gap([] if bank.bns_gap is None else bank.bns_gap.tolist()),
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
