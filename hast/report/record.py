"""What the stages of a run wrote, read into memory, and what it says in numbers.

`report/results.json` holds the numbers, and the page says them first.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hast.bank.stored import StoredBank
from hast.config.bit_width import load_bit_widths
from hast.config.section import read_yaml
from hast.files.hardness import load_hardness
from hast.files.tables import read_json, read_tsv
from hast.files.teachers import TeacherCard
from hast.files.weights import load_card
from hast.loops.layer_errors import LayerError
from hast.math.intervals import paired_drop
from hast.networks.coverage import LayerBits

Row = dict[str, Any]
_MEASURES = ("top1", "top5", "agreement", "size_bytes", "samples")
_COVERED = ("low_bit_weights", "low_bit_multiply_adds")  # shares, see `hast.networks.coverage`


class Seen(NamedTuple):
    """What the networks say about the N test images."""

    labels: Tensor  # (N,)
    answers: dict[str, Tensor]  # (N,), of `teacher` and `student`
    difficulty: Tensor  # (N,), 1 - p(label) under the teacher

    def correct(self, network: str) -> Tensor:
        return self.answers[network] == self.labels


class Width(NamedTuple):
    """The student of one bit width."""

    name: str  # such as w4a4
    calibrated: dict[str, Any]  # metrics of `calibrate`
    trained: dict[str, Any]  # metrics of `quantize`
    measured: dict[str, Any]  # metrics of `evaluate`
    seen: Seen
    layers: list[Row]
    curve: dict[str, list[float]]  # of fine-tuning
    difficulty: Tensor  # (N,) of the bank under the calibrated student


class Run(NamedTuple):
    """All of a run that the report shows."""

    params: dict[str, Any]
    teacher: TeacherCard
    bank: StoredBank
    gaps: list[float]  # BNS gap by layer; empty where the teacher has no BatchNorm
    generator_curve: dict[str, list[float]]
    widths: list[Width]
    exports: dict[str, dict[str, Any]]  # metrics of `export` by width, where there are any


def read_run(
    params: Path,
    *,
    artifacts: Path = Path("artifacts"),
    metrics: Path = Path("metrics"),
    plots: Path = Path("plots"),
) -> Run:
    """Read a finished run. Where it lies is by default what dvc.yaml says.

    Raises:
        InputError: a file is missing; the message names it.
    """
    widths = [str(width) for width in load_bit_widths(params)]
    bank = StoredBank(artifacts / "bank")
    key = bank.card.key()
    exports = {width: metrics / f"export/{width}.json" for width in widths}
    return Run(
        params=read_yaml(params),
        teacher=load_card(artifacts / "teacher", TeacherCard),
        bank=bank,
        gaps=_columns(plots / "bns.tsv").get("bns_gap", []),
        generator_curve=_columns(plots / "generator.tsv"),
        widths=[
            Width(
                name=width,
                calibrated=read_json(metrics / f"calibrate/{width}.json"),
                trained=read_json(metrics / f"quantize/{width}.json"),
                measured=read_json(metrics / f"evaluate/{width}.json"),
                seen=_seen(artifacts / f"predictions/{width}.tsv"),
                layers=_layers(artifacts, width),
                curve=_columns(plots / f"quantize/{width}.tsv"),
                difficulty=load_hardness(artifacts / f"hardness/{width}.safetensors", bank=key),
            )
            for width in widths
        ],
        exports={width: read_json(path) for width, path in exports.items() if path.is_file()},
    )


def results_of(widths: list[Width]) -> dict[str, dict[str, Any]]:
    """Results by network: `fp32`, then every width.

    Shares are in [0, 1]. `drop` is what the student loses against the teacher on the same images,
    with the half-width of its 95 % interval; `compression` is fp32 size by size; `bank_agreement`
    is agreement with the teacher on the images the student was trained on; `kept_step` is the step
    of fine-tuning that the student is from, of `steps`; `low_bit_*` are the shares of the network
    that really are low-bit. Without test images (`samples` is 0) nothing else is known.
    """
    teacher = widths[0].measured["teacher"]
    results = {"fp32": _known(teacher)}
    for width in widths:
        student = width.measured["student"]
        results[width.name] = _known(student) | {
            "compression": teacher["size_bytes"] / student["size_bytes"],
            "bank_agreement": width.measured["bank"]["student"]["agreement"],
            "kept_step": width.trained["kept_step"],
            "steps": width.trained["steps"],
            **{key: width.calibrated[key] for key in _COVERED},
        }
        if student["samples"]:
            drop = paired_drop(width.seen.correct("teacher"), width.seen.correct("student"))
            results[width.name] |= {
                "top1_before_finetuning": width.measured["calibrated"]["top1"],
                **dict(zip(("drop", "drop_margin"), drop, strict=True)),
            }
    return results


def verdict(name: str, row: dict[str, Any]) -> str:
    """What says whether the student can be trusted."""
    if row["kept_step"] == row["steps"]:
        return _measured(name, row)
    return (
        f"{_measured(name, row)} On held-back samples fine-tuning ended worse than it began: the"
        f" student is that of step {row['kept_step']} of {row['steps']}."
    )


def _measured(name: str, row: dict[str, Any]) -> str:
    if not row["samples"]:
        return (
            f"{name.upper()} gives the teacher's answer on {row['bank_agreement']:.1%} of the bank"
            " it was trained on; without test images nobody knows its accuracy."
        )
    drop, margin = 100 * row["drop"], 100 * row["drop_margin"]
    answers = (
        f"{name.upper()} gives the teacher's answer on {row['agreement']:.1%} of"
        f" {row['samples']:,} test images"
    )
    if abs(drop) <= margin or drop == 0:
        answers += "; on so few images its accuracy cannot be told from the teacher's."
    elif drop < 0:
        answers += f" and is {-drop:.2f} ± {margin:.2f} points more accurate."
    else:
        answers += f" and loses {drop:.2f} ± {margin:.2f} points of accuracy."
    before = row.get("top1_before_finetuning", 0.0)
    if before - row.get("top1", 1.0) > row["drop_margin"]:
        answers += (
            f" Fine-tuning made it worse than the {before:.2%} it had before: give it more samples,"
            " more steps or a smaller learning rate."
        )
    return answers


def _known(measured: dict[str, Any]) -> dict[str, Any]:
    return {key: measured[key] for key in _MEASURES if key in measured}


def _seen(path: Path) -> Seen:
    """What `evaluate` wrote, one row a test image."""
    columns = _columns(path)  # none where there were no test images
    names = ("label", "teacher", "student", "teacher_difficulty")
    label, teacher, student, hard = (torch.tensor(columns.get(name, [])) for name in names)
    return Seen(label.long(), {"teacher": teacher.long(), "student": student.long()}, hard)


def _layers(artifacts: Path, width: str) -> list[Row]:
    """Bits and shares of every layer, with its ranges and errors where it is quantized."""
    # A module that is only quantized at its output (placement `relu`) has no row of its own bits.
    blank = dict.fromkeys((*LayerBits._fields, *LayerError._fields), "")
    rows: dict[str, Row] = {}
    for folder in ("layers", "layer_errors"):
        for row in read_tsv(artifacts / folder / f"{width}.tsv"):
            rows.setdefault(row["layer"], {**blank}).update(row)
    return [*rows.values()]


def _columns(path: Path) -> dict[str, list[float]]:
    rows = read_tsv(path)
    return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else ())}
