"""One self-contained page that presents a bank."""

from hast.bank.facts import bank_facts, facts_rows
from hast.bank.stored import StoredBank
from hast.report.figures.canvas import Figure
from hast.report.figures.classes import class_balance
from hast.report.figures.difficulty import difficulty_histogram
from hast.report.figures.samples import sample_grid
from hast.report.figures.training import bns_gap
from hast.report.template import fill


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
    return fill("bank.html.j2", bank=bank, rows=rows, figures=figures)
