"""Does bf16 cost accuracy? The same banks and students in fp32 and in bf16, over seeds.

    python -m bench.precision --source pytorchcv:resnet20_cifar10 --weights W.safetensors \
        --images FOLDER_WITH_TEST --mean 0.49139968,0.48215827,0.44653124 \
        --std 0.24703233,0.24348505,0.26158768

Everything else is equal: parameters, seeds, compilation. Prints a table and writes
bench/out/precision.json. Nothing is chosen by these figures; the last step is the result.
"""

import json
import statistics
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from bench.experiment import (
    Images,
    Mean,
    Source,
    Std,
    Weights,
    Widths,
    calibrated,
    correct_answers,
    halves,
    make_bank,
    mean_and_spread,
    open_teacher,
    parse_widths,
    tune,
)
from bench.machine import describe
from bench.run import OUT
from hast.api import train_generator
from hast.engine import Engine, place
from hast.runtime import device_of

RULES = {"placement": "inputs"}
PRECISIONS = {"fp32": Engine(compile=True), "bf16": Engine(bf16=True, compile=True)}


def main(
    source: Source,
    weights: Weights,
    images: Images,
    mean: Mean,
    std: Std,
    widths: Widths = "w4a4,w3a3",
    seeds: int = 3,
    samples: int = 512,
    synthesis_steps: int = 300,
    steps: int = 400,
    learning_rate: float = 1e-5,
    device: str = "auto",
) -> None:
    options = {name: str(value) for name, value in locals().items()}
    teacher = open_teacher(source, weights, images, mean, std, device)
    results: list[dict[str, Any]] = []
    for seed in range(seeds):
        generator = place(
            train_generator(teacher.network, teacher.spec, seed=seed), device_of(teacher.network)
        )
        synthesis = {"samples": samples, "steps": synthesis_steps, "seed": seed}
        tuning = {
            "steps": steps, "seed": seed, "learning_rate": learning_rate,
            "milestones": (steps // 2, steps * 3 // 4),
        }  # fmt: skip
        for precision, engine in PRECISIONS.items():
            bank = make_bank(teacher, synthesis, engine)
            for width in parse_widths(widths):
                student = calibrated(
                    teacher, width, RULES, {}, generator=generator, bank=bank, seed=seed
                )
                tune(student, teacher, bank, tuning, engine, f"{width} {precision}")
                top1 = halves(*correct_answers(student, teacher))["all"]
                results.append(
                    {"seed": seed, "precision": precision, "bits": str(width), "top1": top1}
                )
                print(results[-1], flush=True)
    report(results, describe(device_of(teacher.network)), options)


def report(results: list[dict[str, Any]], machine: dict[str, Any], options: dict[str, str]) -> None:
    table = Table(title=f"{machine['device']}, torch {machine['torch']}, {options['seeds']} seeds")
    for column in ("", *PRECISIONS, "bf16 - fp32, by seed"):
        table.add_column(column, justify="right")
    summary = {}
    for bits in dict.fromkeys(row["bits"] for row in results):
        own = [row for row in results if row["bits"] == bits]
        top1 = {p: [row["top1"] for row in own if row["precision"] == p] for p in PRECISIONS}
        gaps = [b - a for a, b in zip(*top1.values(), strict=True)]
        summary[bits] = {"mean": statistics.mean(gaps), "by_seed": gaps}
        shown = f"{statistics.mean(gaps):+.2f} ({', '.join(f'{gap:+.2f}' for gap in gaps)})"
        table.add_row(bits, *map(mean_and_spread, top1.values()), shown)
    Console().print(table)
    OUT.mkdir(exist_ok=True)
    values = {"machine": machine, "options": options, "results": results, "gaps": summary}
    (OUT / "precision.json").write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
