"""Does bf16 cost accuracy? The same banks and students in fp32 and in bf16, over seeds.

    python -m bench.precision --source pytorchcv:resnet20_cifar10 --weights W.safetensors \
        --images FOLDER_WITH_TEST --mean 0.49139968,0.48215827,0.44653124 \
        --std 0.24703233,0.24348505,0.26158768

Everything else is equal: parameters, seeds, compilation. Prints a table and writes
bench/out/precision.json. Nothing is chosen by these figures; the last step is the result.
"""

import json
import statistics
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from bench.machine import describe
from bench.run import OUT
from hast.api import train_generator
from hast.bit_width import BitWidth
from hast.classifier_source import load_classifier
from hast.engine import Engine, place, select_device
from hast.loops.calibrate import CalibrationConfig, calibrate, calibration_batches
from hast.loops.evaluate import evaluate
from hast.loops.finetune import FinetuneConfig, finetune
from hast.loops.synthesize import SynthesisConfig, batch_sizes, synthesize
from hast.networks.batch_norm import freeze
from hast.networks.blocks import find_blocks
from hast.networks.generator import Generator
from hast.networks.plan import PlanConfig, plan_quantization
from hast.networks.spec import ModelSpec
from hast.networks.student import prepare_student
from hast.progress import drain, track
from hast.storage.datasets import DatasetConfig, open_batches

PRECISIONS = {"fp32": Engine(compile=True), "bf16": Engine(bf16=True, compile=True)}


def main(
    source: Annotated[str, typer.Option()],
    weights: Annotated[Path, typer.Option()],
    images: Annotated[Path, typer.Option()],
    mean: Annotated[str, typer.Option()],
    std: Annotated[str, typer.Option()],
    widths: str = "w4a4,w3a3",
    seeds: int = 3,
    samples: int = 512,
    synthesis_steps: int = 300,
    steps: int = 400,
    learning_rate: float = 1e-5,
    device: str = "auto",
) -> None:
    options = {name: str(value) for name, value in locals().items()}
    where = select_device(device)
    statistics_of = {"mean": floats(mean), "std": floats(std)}
    network, spec = load_classifier(source, weights=str(weights), spec=statistics_of)
    teacher = place(freeze(network), where)
    widths_tried = [BitWidth.parse(name) for name in widths.split(",")]
    results: list[dict[str, Any]] = []
    for seed in range(seeds):
        generator = place(train_generator(teacher, spec, seed=seed), where)
        for name, engine in PRECISIONS.items():
            config = SynthesisConfig(samples=samples, steps=synthesis_steps, seed=seed)
            bank = make_bank(teacher, spec, config, engine)
            students = {}
            for width in widths_tried:
                student = calibrated(teacher, spec, generator, width, seed)
                tuning = FinetuneConfig(
                    steps=steps, seed=seed, learning_rate=learning_rate,
                    milestones=(steps // 2, steps * 3 // 4),
                )  # fmt: skip
                blocks = find_blocks(teacher, spec)
                records = finetune(
                    student, teacher, bank, torch.ones(samples), blocks, tuning, engine
                )
                drain(records, total=steps, label=f"{width} {name}", fields=("loss",))
                students[str(width)] = student
            accuracies = measure(students, teacher, spec, images)
            results.append({"seed": seed, "precision": name} | accuracies)
            print(results[-1], flush=True)
    report(results, [str(w) for w in widths_tried], describe(where), options)


def floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def make_bank(
    teacher: nn.Module, spec: ModelSpec, config: SynthesisConfig, engine: Engine
) -> torch.Tensor:
    batches = range(len(batch_sizes(config)))
    total = len(batches) * config.steps
    records = synthesize(teacher, None, spec, config, batches, engine)
    shown = track(records, total=total, label="synthesize", fields=("loss",))
    return torch.cat([step.images for step in shown if step.is_last])


def calibrated(
    teacher: nn.Module, spec: ModelSpec, generator: Generator, width: BitWidth, seed: int
) -> nn.Module:
    plan = plan_quantization(teacher, spec, width, PlanConfig())
    student = prepare_student(teacher, spec, plan)
    drain(
        calibrate(student, calibration_batches(generator, CalibrationConfig(seed=seed))),
        total=None, label="calibrate", show=False,
    )  # fmt: skip
    return student


def measure(
    students: dict[str, nn.Module], teacher: nn.Module, spec: ModelSpec, images: Path
) -> dict[str, float]:
    """Top-1 of the teacher and of every student, in percent, in fp32."""
    config = DatasetConfig(name="folder", root=str(images))
    networks = {"teacher": teacher, **students}
    for counts in evaluate(networks, teacher, open_batches(config, "test", spec)):
        last = counts
    return {name: 100 * evaluation.top1 for name, evaluation in last.items()}


def report(
    results: list[dict[str, Any]],
    widths: list[str],
    machine: dict[str, Any],
    options: dict[str, str],
) -> None:
    table = Table(title=f"{machine['device']}, torch {machine['torch']}, {options['seeds']} seeds")
    for column in ("", *PRECISIONS, "bf16 - fp32, by seed"):
        table.add_column(column, justify="right")
    summary = {}
    for width in widths:
        top1 = {p: [r[width] for r in results if r["precision"] == p] for p in PRECISIONS}
        gaps = [b - a for a, b in zip(*top1.values(), strict=True)]
        summary[width] = {"gap_mean": statistics.mean(gaps), "gaps": gaps}
        cells = [f"{statistics.mean(v):.2f} ± {spread(v):.2f}" for v in top1.values()]
        table.add_row(
            width,
            *cells,
            f"{summary[width]['gap_mean']:+.2f} ({', '.join(f'{gap:+.2f}' for gap in gaps)})",
        )
    Console().print(table)
    OUT.mkdir(exist_ok=True)
    values = {"machine": machine, "options": options, "results": results, "summary": summary}
    (OUT / "precision.json").write_text(json.dumps(values, indent=2) + "\n")


def spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    typer.run(main)
