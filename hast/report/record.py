"""What the stages of a run wrote, read into memory."""

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
from hast.networks.coverage import LayerBits

Row = dict[str, Any]


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
