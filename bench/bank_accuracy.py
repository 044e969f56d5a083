"""What the data type of a stored bank costs in accuracy: the same images, rounded as each type
rounds them, and the same fine-tuning.

    python -m bench.bank_accuracy --source pytorchcv:resnet20_cifar10 --weights W.safetensors \
        --images FOLDER --mean 0.49139968,0.48215827,0.44653124 \
        --std 0.24703233,0.24348505,0.26158768

Recipe `best`. Also prints how far the images are from what was synthesized, how well they match
the BatchNorm statistics, and how hard they are. Writes bench/out/bank_accuracy.json and, for
`bench.bank`, the bank as float32.
"""

import copy
import json
from typing import get_args

import torch
import typer
from torch import Tensor

from bench.experiment import (
    Images,
    Mean,
    Source,
    Std,
    Teacher,
    Weights,
    Widths,
    calibrated,
    correct_answers,
    halves,
    open_teacher,
    parse_widths,
    tune,
)
from bench.run import OUT
from hast.api import synthesize, train_generator
from hast.bank import Bank, Dtype
from hast.engine import choose_engine, place
from hast.loops.profile import profile_batches, whole_profile
from hast.recipes import recipe_settings
from hast.runtime import device_of
from hast.storage.bank_tools import save_bank
from hast.storage.pixels import decode, encode


def main(
    source: Source,
    weights: Weights,
    images: Images,
    mean: Mean,
    std: Std,
    widths: Widths = "w3a3",
    samples: int = 1280,
    synthesis_steps: int = 400,
    steps: int = 600,
    seeds: int = 2,
    device: str = "auto",
) -> None:
    teacher = open_teacher(source, weights, images, mean, std, device)
    settings = recipe_settings("best", "quick")
    results = []
    for seed in range(seeds):
        generator = train_generator(teacher.network, teacher.spec, seed=seed, steps=400)
        generator = place(generator, device_of(teacher.network))
        bank = synthesize(
            teacher.network, teacher.spec, samples=samples, steps=synthesis_steps, seed=seed
        )
        keep_bank(bank)
        for name in get_args(Dtype):
            rounded = torch.from_numpy(decode(*encode(bank.images.numpy(), name)))
            row = {"dtype": name, "seed": seed, **distance(teacher, bank, rounded)}
            for width in parse_widths(widths):
                student = calibrated(
                    teacher, width, {"placement": "inputs", **settings["layers"]}, {},
                    generator=generator, bank=rounded, seed=seed,
                )  # fmt: skip
                tuning = settings["quantize"] | {"steps": steps, "seed": seed}
                engine = choose_engine(device_of(student), work=float("inf"))
                tune(student, teacher, rounded, tuning, engine, f"{name} {width}")
                row[str(width)] = halves(*correct_answers(student, teacher))["all"]
            results.append(row)
            print(row, flush=True)
            (OUT / "bank_accuracy.json").write_text(json.dumps(results, indent=2) + "\n")


def distance(teacher: Teacher, bank: Bank, rounded: Tensor) -> dict[str, float]:
    batches = zip(rounded.split(256), bank.labels.split(256), strict=True)
    profile = whole_profile(profile_batches(teacher.network, batches))
    return {
        "rms_error": (rounded - bank.images).square().mean().sqrt().item(),
        "bns": profile.bns_gap.mean().item(),
        "difficulty": profile.difficulty.mean().item(),
    }


def keep_bank(bank: Bank) -> None:
    OUT.mkdir(exist_ok=True)
    card = bank.card.model_copy(update={"dtype": "float32"})
    save_bank(copy.copy(bank)._replace(card=card), OUT / "bank-float32", overwrite=True)


if __name__ == "__main__":
    typer.run(main)
