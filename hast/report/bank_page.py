"""One self-contained page that presents a bank."""

from hast.bank.facts import bank_facts, facts_rows
from hast.bank.stored import StoredBank
from hast.report.figures.canvas import Figure, to_data_uri, to_png, to_svg
from hast.report.figures.classes import class_balance
from hast.report.figures.difficulty import difficulty_histogram
from hast.report.figures.samples import choose_samples, sample_grid
from hast.report.figures.training import bns_gap
from hast.report.template import fill


def bank_grid(bank: StoredBank, *, classes: int = 10, columns: int = 8) -> Figure:
    """Samples in pixel space, a row a class, from easy to hard. Only what is shown is read.

    Args:
        bank: on disk.
        classes: rows; of more classes evenly spaced ones are shown.
        columns: samples of a class.
    """
    labels, difficulty = bank.labels, bank.difficulty
    grid = choose_samples(labels, difficulty, classes=classes, columns=columns)
    index = grid[grid >= 0].unique()
    spec = bank.card.spec
    pixels = spec.denormalize(bank.images[index])
    return sample_grid(
        pixels, labels[index], difficulty[index],
        class_names=spec.class_names, classes=classes, columns=columns,
    )  # fmt: skip


def bank_page(bank: StoredBank) -> str:
    """Provenance, samples, difficulty, class balance and BNS gap as one HTML page.

    Raises:
        InputError: Jinja2 is not installed.
    """
    spec, labels = bank.card.spec, bank.labels
    figures = {
        "Difficulty": (
            difficulty_histogram({"bank": bank.difficulty}),
            "Share of samples by difficulty under the teacher (logarithmic).",
        ),
        "Classes": (
            class_balance(labels, num_classes=spec.num_classes, class_names=spec.class_names),
            "Samples of each class.",
        ),
    }
    if bank.bns_gap is not None:
        caption = "Distance from the teacher's BatchNorm statistics, layer by layer (logarithmic)."
        figures["BNS gap"] = (bns_gap(bank.bns_gap.tolist()), caption)
    return fill(
        "bank.html.j2",
        bank=bank,
        rows=facts_rows(bank_facts(bank)),
        grid=to_data_uri(to_png(bank_grid(bank))),
        figures=[
            (title, to_svg(figure, f"figure-{i}", description=caption), caption)
            for i, (title, (figure, caption)) in enumerate(figures.items())
        ],
    )
