"""Recipes and their parts, side by side: the same teacher, banks and compute, over seeds.

    python -m bench.accuracy --source pytorchcv:resnet20_cifar10 --weights W.safetensors \
        --images FOLDER --mean 0.49139968,0.48215827,0.44653124 \
        --std 0.24703233,0.24348505,0.26158768 --variants hast,best

The last step is the result. Recipes are compared on the first half of each class of the test
folder and reported on the other half. Prints a table and writes bench/out/accuracy.json after every
student, so that a run that was stopped keeps what it has measured.
"""

import json
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench.experiment import (
    Images,
    Mean,
    Shape,
    Source,
    Std,
    Teacher,
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
from hast.engine import choose_engine, place
from hast.recipes import recipe_settings
from hast.runtime import device_of
from hast.storage.datasets import DatasetConfig, open_batches

# What each variant changes, by section; `hast` and `best` are the recipes themselves.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "hast": ("hast", {}),
    "hast, γ = 0": ("hast", {"synthesize": {"gamma": 0.0}}),
    "hast, ε = 0": ("hast", {"quantize": {"promotion_step": 0.0}}),
    "hast, λ = 0": ("hast", {"quantize": {"alignment_weight": 0.0}}),
    "hast, none of them": (
        "hast",
        {
            "synthesize": {"gamma": 0.0},
            "quantize": {"promotion_step": 0.0, "alignment_weight": 0.0},
        },
    ),
    "hast, real data": ("hast", {"bank": "train"}),
    "best": ("best", {}),
    "best, ε = 0": ("best", {"quantize": {"promotion_step": 0.0}}),
    "best, ε = 0, twice the steps": (
        "best",
        {"quantize": {"promotion_step": 0.0, "steps": 1200}},
    ),
    "best, slow scales": ("best", {"quantize": {"scale_rate_factor": 1.0}}),
    "best, BatchNorm corrected": ("best", {"calibrate": {"correct_batch_norm": True}}),
    "best, ranges of the generator": ("best", {"calibrate": {"images": "generator"}}),
    "best, crops in synthesis": (
        "best",
        {"synthesize": {"augment_probability": 1.0, "min_crop_scale": 0.5}},
    ),
    "best, ε = 0, λ = 0": ("best", {"quantize": {"promotion_step": 0.0, "alignment_weight": 0.0}}),
    "best, λ = 0": ("best", {"quantize": {"alignment_weight": 0.0}}),
    "best, lr 3e-4": ("best", {"quantize": {"learning_rate": 3e-4}}),
    "best, lr 3e-3": ("best", {"quantize": {"learning_rate": 3e-3}}),
    "best, min/max": ("best", {"layers": {"quantizer": "minmax"}}),
    "best, real data": ("best", {"bank": "train"}),
}


def main(
    source: Source,
    weights: Weights,
    images: Images,
    mean: Mean,
    std: Std,
    shape: Shape = "",
    variants: Annotated[str, typer.Option(help="Separated by semicolons, or `all`.")] = "hast;best",
    widths: Widths = "w4a4,w3a3",
    size: str = "quick",
    samples: int = 0,
    steps: int = 0,
    seeds: int = 3,
    first_seed: int = 0,
    out: str = "accuracy",
    device: str = "auto",
) -> None:
    options = {name: str(value) for name, value in locals().items()}
    teacher = open_teacher(source, weights, images, mean, std, device, shape)
    names = list(VARIANTS) if variants == "all" else variants.split(";")
    results = [{"variant": "teacher", **halves(*correct_answers(teacher.network, teacher))}]
    for seed in range(first_seed, first_seed + seeds):
        shared = Shared(teacher, seed, size, samples)
        for name in names:
            recipe, changes = VARIANTS[name]
            settings = recipe_settings(recipe, size)
            tuning = settings["quantize"] | changes.get("quantize", {}) | {"seed": seed}
            if steps:
                tuning |= {"steps": steps, "milestones": (steps // 2, steps * 3 // 4)}
            rules = settings.get("layers", {}) | changes.get("layers", {})
            ranges = settings.get("calibrate", {}) | changes.get("calibrate", {})
            bank = shared.bank(changes)
            for width in parse_widths(widths):
                student = calibrated(
                    teacher, width, rules, ranges,
                    generator=shared.generator, bank=bank, seed=seed,
                )  # fmt: skip
                before = halves(*correct_answers(student, teacher))["all"]
                tune(student, teacher, bank, tuning, shared.engine, f"{name} {width}")
                row = {"variant": name, "bits": str(width), "seed": seed, "before": before}
                results.append(row | halves(*correct_answers(student, teacher)))
                print(results[-1], flush=True)
                keep(out, results, options, device_of(teacher.network))
    report(results)


class Shared:
    """What the variants of one seed have in common: generator and banks."""

    def __init__(self, teacher: Teacher, seed: int, size: str, samples: int) -> None:
        settings = recipe_settings("hast", size)
        self.teacher, self.seed = teacher, seed
        where = device_of(teacher.network)
        self.engine = choose_engine(where, work=float("inf"))
        self.generator = place(
            train_generator(teacher.network, teacher.spec, seed=seed, **settings["generator"]),
            where,
        )
        self._synthesis = settings["synthesize"] | {"seed": seed}
        if samples:
            self._synthesis["samples"] = samples
        self._banks: dict[str, Tensor] = {}

    def bank(self, changes: dict[str, Any]) -> Tensor:
        kind = changes.get("bank") or json.dumps(changes.get("synthesize", {}))
        if kind not in self._banks:
            self._banks[kind] = (
                self._real() if kind == "train" else self._synthetic(changes.get("synthesize", {}))
            )
        return self._banks[kind]

    def _synthetic(self, changes: dict[str, Any]) -> Tensor:
        return make_bank(self.teacher, self._synthesis | changes, self.engine).cpu()

    def _real(self) -> Tensor:
        """As many real training images as the bank has, evenly spread over the folder."""
        config = DatasetConfig(name="folder", root=self.teacher.images)
        batches = open_batches(config, "train", self.teacher.spec)
        images = torch.cat([x for x, _ in batches])
        index = torch.linspace(0, len(images) - 1, self._synthesis["samples"]).long()
        return images[index]


def keep(
    name: str, results: list[dict[str, Any]], options: dict[str, str], device: torch.device
) -> None:
    OUT.mkdir(exist_ok=True)
    values = {"machine": describe(device), "options": options, "results": results}
    (OUT / f"{name}.json").write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def report(results: list[dict[str, Any]]) -> None:
    teacher, *rows = results
    table = Table(title=f"top-1, teacher {teacher['all']:.2f}")
    for column in ("variant", "bits", "seeds", "before", "all", "first half", "second half"):
        table.add_column(column, justify="right")
    for variant, bits in dict.fromkeys((row["variant"], row["bits"]) for row in rows):
        own = [row for row in rows if (row["variant"], row["bits"]) == (variant, bits)]
        columns = ("before", "all", "first_half", "second_half")
        cells = [mean_and_spread([row[column] for row in own]) for column in columns]
        table.add_row(variant, bits, str(len(own)), *cells)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
