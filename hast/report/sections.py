"""The pictures of the page, each with the sentence that says what to look for."""

from typing import Any, NamedTuple

from hast.report.bank_page import bank_grid
from hast.report.figures.canvas import Figure, to_data_uri, to_png, to_svg
from hast.report.figures.confusion import confusion_change
from hast.report.figures.difficulty import difficulty_histogram, error_by_difficulty
from hast.report.figures.training import bns_gap, fidelity_gap, training_curves
from hast.report.record import Run

_CURVES = ("loss", "distillation", "alignment")


class Picture(NamedTuple):
    """A figure of the page: an SVG element, or an image by its data URI."""

    caption: str
    svg: str = ""
    uri: str = ""
    whole: bool = False  # takes the page's whole width


class Chapter(NamedTuple):
    title: str
    text: str
    pictures: list[Picture]

    @property
    def anchor(self) -> str:
        return self.title.lower().replace(" ", "-")


def chapters(run: Run) -> list[Chapter]:
    """All pictures of a run, what matters most first."""
    measured = len(run.widths[0].seen.labels) > 0
    on_test = [_fidelity(run), _confusion(run)] if measured else []
    return [_samples(run), _difficulty(run), *on_test, _training(run)]


def _samples(run: Run) -> Chapter:
    return Chapter(
        "Samples",
        f"What the student was trained on: {len(run.bank):,} images made from the teacher alone,"
        " brought back to pixels. Rows are classes; from left to right the samples get harder for"
        " the teacher.",
        [
            Picture(
                "Synthetic samples by class and difficulty. Below each: 1 − p(label) under the"
                " teacher.",
                uri=to_data_uri(to_png(bank_grid(run.bank), dpi=110)),
            )
        ],
    )


def _difficulty(run: Run) -> Chapter:
    first = run.widths[0].seen
    histogram = difficulty_histogram(
        {
            "bank, teacher": run.difficulty,
            **{f"bank, {w.name.upper()} before fine-tuning": w.difficulty for w in run.widths},
            **({"test images, teacher": first.difficulty["teacher"]} if len(first.labels) else {}),
        }
    )
    pictures = [
        _drawn(
            histogram,
            "difficulty",
            "Share of samples by difficulty, synthetic and real (logarithmic).",
        )
    ]
    if len(first.labels):
        pictures.append(_errors(run))
    return Chapter(
        "Difficulty",
        "0 is easy, 1 is hard. A bank that is much easier than real images teaches little about the"
        " boundary between classes. A student that errs only where the teacher is unsure has kept"
        " what the teacher knows.",
        pictures,
    )


def _errors(run: Run) -> Picture:
    first = run.widths[0].seen
    wrong = {"teacher": ~first.correct("teacher")}
    wrong |= {w.name.upper(): ~w.seen.correct("student") for w in run.widths}
    return _drawn(
        error_by_difficulty(first.difficulty["teacher"], wrong),
        "errors",
        "Errors on test images by their difficulty for the teacher, with 95 % intervals; above each"
        " group the number of its images.",
    )


def _fidelity(run: Run) -> Chapter:
    shares = {
        w.name.upper(): {
            "bank, which it was trained on": w.measured["bank"]["student"]["agreement"],
            "test images": w.measured["student"]["agreement"],
        }
        for w in run.widths
    }
    return Chapter(
        "Train and test",
        "Agreement with the teacher on the images the student was trained on and on images it never"
        " saw. Where the first is much higher, the student knows its bank by heart: more or harder"
        " samples help more than more steps.",
        [
            _drawn(
                fidelity_gap(shares), "fidelity", "Share of equal answers of student and teacher."
            )
        ],
    )


def _confusion(run: Run) -> Chapter:
    spec = run.bank.card.spec
    pictures = [
        _drawn(
            confusion_change(
                w.seen.labels,
                w.seen.answers["teacher"],
                w.seen.answers["student"],
                num_classes=spec.num_classes,
                class_names=spec.class_names or (),
            ),
            f"confusion-{w.name}",
            f"{w.name.upper()}: test images with that label and answer, student minus teacher.",
        )
        for w in run.widths
    ]
    return Chapter(
        "Confusion",
        "Which mistakes quantization adds or takes away. A good student has small numbers"
        " everywhere, not one dark row: a class that it has lost.",
        pictures,
    )


def _training(run: Run) -> Chapter:
    curves = {w.name.upper(): w.curve for w in run.widths}
    pictures = [
        _drawn(
            training_curves(curves, columns=_CURVES), "curves", "Fine-tuning by step.", whole=True
        ),
        _drawn(bns_gap(run.gaps), "bns", "BNS gap of the bank by layer (logarithmic)."),
    ]
    if run.generator_curve:  # none is trained for a bank that others made
        curve = {"generator": run.generator_curve}
        pictures.append(
            _drawn(
                training_curves(curve, columns=("cross_entropy", "bns")),
                "generator",
                f"Training of the generator; {_use_of_generator(run.params)}.",
            )
        )
    return Chapter(
        "Training",
        "How well the bank matches the statistics stored in each BatchNorm layer, and whether the"
        " losses had settled when training ended.",
        pictures,
    )


def _use_of_generator(params: dict[str, Any]) -> str:
    if params.get("calibrate", {}).get("images") == "bank":
        return "activation ranges were taken from the bank's images instead"
    return "its images set the activation ranges"


def _drawn(figure: Figure, name: str, caption: str, *, whole: bool = False) -> Picture:
    return Picture(caption, svg=to_svg(figure, name, description=caption), whole=whole)
