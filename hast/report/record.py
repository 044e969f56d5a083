"""What the stages of a run wrote, read into memory."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hast.bank.stored import StoredBank
from hast.config.section import read_yaml
from hast.files.hardness import load_hardness
from hast.files.tables import read_json, read_tsv
from hast.files.teachers import TeacherCard
from hast.files.weights import load_card

Row = dict[str, Any]
_NETWORKS = ("teacher", "calibrated", "student")


class Sources(NamedTuple):
    """Where a run lies; the defaults are those of dvc.yaml."""

    teacher: Path = Path("artifacts/teacher")
    bank: Path = Path("artifacts/bank")
    hardness: Path = Path("artifacts/hardness")
    layers: Path = Path("artifacts/layers")
    errors: Path = Path("artifacts/layer_errors")
    predictions: Path = Path("artifacts/predictions")
    metrics: Path = Path("metrics")
    plots: Path = Path("plots")


class Seen(NamedTuple):
    """What the networks say about the N test images."""

    labels: Tensor  # (N,)
    answers: dict[str, Tensor]  # by network, (N,)
    difficulty: dict[str, Tensor]  # by network, (N,), 1 - p(label)

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


def read_run(sources: Sources, widths: list[str], params: Path) -> Run:
    """Read a finished run.

    Raises:
        InputError: a file is missing; the message names it.
    """
    bank = StoredBank(sources.bank)
    key = bank.card.key()
    exports = {width: sources.metrics / "export" / f"{width}.json" for width in widths}
    return Run(
        params=read_yaml(params),
        teacher=load_card(sources.teacher, TeacherCard),
        bank=bank,
        gaps=_columns(sources.plots / "bns.tsv").get("bns_gap", []),
        generator_curve=_columns(sources.plots / "generator.tsv"),
        widths=[
            Width(
                name=width,
                calibrated=read_json(sources.metrics / "calibrate" / f"{width}.json"),
                trained=read_json(sources.metrics / "quantize" / f"{width}.json"),
                measured=read_json(sources.metrics / "evaluate" / f"{width}.json"),
                seen=read_seen(sources.predictions / f"{width}.tsv"),
                layers=_layers(sources, width),
                curve=_columns(sources.plots / "quantize" / f"{width}.tsv"),
                difficulty=load_hardness(sources.hardness / f"{width}.safetensors", bank=key),
            )
            for width in widths
        ],
        exports={width: read_json(path) for width, path in exports.items() if path.is_file()},
    )


def read_seen(path: Path) -> Seen:
    """What `evaluate` wrote, one row a test image."""
    columns = {name: torch.tensor(values) for name, values in _columns(path).items()}
    if not columns:  # there were no test images
        columns = {name: torch.empty(0) for n in _NETWORKS for name in ("label", n, _hard(n))}
    return Seen(
        columns["label"].long(),
        {name: columns[name].long() for name in _NETWORKS},
        {name: columns[_hard(name)] for name in _NETWORKS},
    )


def _hard(network: str) -> str:
    return f"{network}_difficulty"


def _layers(sources: Sources, width: str) -> list[Row]:
    """Bits and shares of every layer, with its ranges and errors where it is quantized."""
    rows: dict[str, Row] = {}
    for folder in (sources.layers, sources.errors):
        for row in read_tsv(folder / f"{width}.tsv"):
            rows.setdefault(row["layer"], {}).update(row)
    return [*rows.values()]


def _columns(path: Path) -> dict[str, list[float]]:
    rows = read_tsv(path)
    return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else ())}
