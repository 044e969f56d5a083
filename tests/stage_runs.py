"""The stages as functions on small folders, one after the other, for tests."""

from pathlib import Path
from typing import Any

from stages import (
    calibrate,
    evaluate,
    export,
    generator,
    inputs,
    quantize,
    reconstruct,
    report,
    score,
    sensitivity,
    synthesize,
    teacher,
)

A, M, P = Path("artifacts"), Path("metrics"), Path("plots")


def run_teacher() -> None:
    inputs.run(
        teacher=A / "inputs.json", dataset=A / "dataset.json", bank=A / "bank.json",
        stages=A / "code",
    )  # fmt: skip
    teacher.run(inputs=A / "inputs.json", out=A / "teacher", metrics=M / "teacher.json")


def run_generator() -> None:
    generator.run(
        teacher=A / "teacher", out=A / "generator",
        metrics=M / "generator.json", curve=P / "generator.tsv",
    )  # fmt: skip


def run_synthesize(**options: Any) -> None:
    synthesize.run(
        teacher=A / "teacher", generator=A / "generator", inputs=A / "bank.json", out=A / "bank",
        metrics=M / "synthesize.json", profile=P / "bns.tsv", overwrite=True, **options,
    )  # fmt: skip


def run_student(bits: str = "w4a4") -> None:
    sensitivity.run(teacher=A / "teacher", bank=A / "bank", out=A / "sensitivity.json")
    calibrate.run(
        bits=bits, teacher=A / "teacher", generator=A / "generator", bank=A / "bank",
        sensitivity=A / "sensitivity.json",
        out=A / "calibrated", layers=A / "layers" / f"{bits}.tsv",
        metrics=M / "calibrate" / f"{bits}.json",
    )  # fmt: skip
    score.run(
        bits=bits, teacher=A / "teacher", calibrated=A / "calibrated", bank=A / "bank",
        out=A / "hardness" / f"{bits}.safetensors",
        metrics=M / "score.json", histogram=P / "difficulty.tsv",
    )  # fmt: skip
    reconstruct.run(
        bits=bits, teacher=A / "teacher", calibrated=A / "calibrated", bank=A / "bank",
        out=A / "reconstructed",
    )  # fmt: skip
    run_quantize(bits)
    run_evaluate(bits)


def run_evaluate(bits: str = "w4a4") -> None:
    evaluate.run(
        bits=bits, inputs=A / "dataset.json", teacher=A / "teacher", bank=A / "bank",
        calibrated=A / "calibrated", student=A / "student",
        predictions=A / "predictions" / f"{bits}.tsv", layers=A / "layer_errors" / f"{bits}.tsv",
        metrics=M / "evaluate" / f"{bits}.json",
    )  # fmt: skip
    run_export(bits)


def run_quantize(bits: str = "w4a4", *, out: Path = A / "student", **options: Any) -> None:
    quantize.run(
        bits=bits, teacher=A / "teacher", start=A / "reconstructed", bank=A / "bank",
        hardness=A / "hardness" / f"{bits}.safetensors", out=out,
        metrics=M / "quantize.json", curve=P / "quantize" / f"{bits}.tsv", **options,
    )  # fmt: skip


def run_export(bits: str = "w4a4") -> None:
    export.run(
        bits=bits, inputs=A / "dataset.json", teacher=A / "teacher", bank=A / "bank",
        student=A / "student", out=A / "export" / bits,
        metrics=M / "export" / f"{bits}.json",
    )  # fmt: skip


def run_report() -> None:
    report.run(
        teacher=A / "teacher", bank=A / "bank", hardness=A / "hardness", layers=A / "layers",
        errors=A / "layer_errors", predictions=A / "predictions", metrics=M, plots=P,
        out=Path("report"),
    )  # fmt: skip
