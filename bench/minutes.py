"""What a time buys: students made within some minutes, by recipe, on synthetic and on real images.

    python -m bench.minutes --source python:hast.networks.efficientnet_lite0:efficientnet_lite0 \
        --shape 3x224x224 --mean 0.498,0.498,0.498 --std 0.502,0.502,0.502 --crop-fraction 0.875 \
        --images FOLDER --widths w8a8,w4a8,w4a4 --minutes 15

Sizes are chosen once, as `hast quantize --minutes` does, and then hold for all rows. Some of the
test images, drawn with seed 0, are a bank of their own to compare with; all rows are measured on
the others, paired with the teacher. Writes bench/out/NAME.json after every student; the same
command again goes on where it was stopped.
"""

import time
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from torch import nn

from bench.experiment import (
    Images,
    Mean,
    Shape,
    Source,
    Std,
    Teacher,
    Weights,
    Widths,
    correct_answers,
    open_teacher,
    parse_widths,
)
from bench.machine import describe
from bench.run import OUT
from hast.api.students import quantize
from hast.api.zero_shot import arguments_of, held_back_drop, make_samples
from hast.bank.pictures import import_pictures
from hast.bank.record import Bank
from hast.bank.stored import StoredBank
from hast.config.bank import BankConfig
from hast.config.recipes import Settings, merged
from hast.engine.runtime import device_of, seeded
from hast.files.pictures import pictures_in
from hast.files.tables import read_json, write_json
from hast.math.intervals import paired_drop
from hast.pipeline.settings import network_settings
from hast.report.tables import markdown_rows

_NO_STEPS: Settings = {"reconstruct": {"steps": 0}, "quantize": {"steps": 0, "milestones": []}}
_CORRECTED: Settings = {"calibrate": {"correct_batch_norm": True}}
# What each variant changes of the recipe that its name begins with.
VARIANTS: dict[str, Settings] = {
    "best": {},
    "best, ends no wider": {"layers": {"first_last_bits": "width"}},
    "best, BatchNorm corrected": _CORRECTED,
    "best, ranges only": _NO_STEPS,
    "best, ranges and BatchNorm": merged([_NO_STEPS, _CORRECTED]),
    "hast": {},
}
_REAL = ", real images"  # may stand behind each
REAL = 200  # test images that are spent as a bank
_COLUMNS = ("", "width", "seed", "minutes", "top-1", "loses", "agreement, held back")


def main(
    source: Source,
    images: Images,
    mean: Mean,
    std: Std,
    weights: Weights = None,
    shape: Shape = "",
    crop_fraction: float = 1.0,
    widths: Widths = "w8a8,w4a8,w4a4",
    minutes: float = 15.0,
    variants: Annotated[str, typer.Option(help="Separated by semicolons.")] = "best",
    seeds: int = 3,
    first_seed: int = 0,
    out: str = "minutes",
) -> None:
    teacher = open_teacher(source, weights, images, mean, std, "auto", shape, crop_fraction)
    path = OUT / f"{out}.json"
    kept = read_json(path) if path.exists() else {"settings": {}, "rows": []}
    kept["machine"] = describe(device_of(teacher.network))
    spent, rest = drawn_pictures(images, REAL)
    before = correct_answers(teacher.network, teacher)[0][rest]
    kept["teacher"] = 100 * before.double().mean().item()
    for seed, name in product(range(first_seed, first_seed + seeds), variants.split(";")):
        made = [
            row["width"] for row in kept["rows"] if (row["variant"], row["seed"]) == (name, seed)
        ]
        missing = [width for width in parse_widths(widths) if str(width) not in made]
        if not missing:
            continue
        recipe = name.partition(",")[0]
        if recipe not in kept["settings"]:
            kept["settings"][recipe] = network_settings(
                teacher.network, teacher.spec, recipe=recipe, size="quick", seed=0, minutes=minutes
            )
        changed = VARIANTS[name.removesuffix(_REAL)]
        settings = _seeded(merged([_sections(kept["settings"][recipe]), changed]), seed)
        with TemporaryDirectory() as folder:
            start = time.perf_counter()
            bank: Bank | StoredBank
            generator = None
            if name.endswith(_REAL):
                bank = imported(spent, Path(folder), teacher)
            else:
                generator, bank = make_samples(teacher.network, teacher.spec, settings)
            for_bank = time.perf_counter() - start
            for width in missing:
                start = time.perf_counter()
                student = quantize(
                    teacher.network, teacher.spec, bank, generator=generator, **width._asdict(),
                    **arguments_of(settings),
                )  # fmt: skip
                seconds = for_bank + time.perf_counter() - start
                after = correct_answers(student, teacher)[0][rest]
                row = _row(student, teacher, bank, settings, before, after)
                row |= {"variant": name, "width": str(width), "seed": seed, "minutes": seconds / 60}
                kept["rows"].append(row)
                write_json(path, kept)
                print(row, flush=True)
    print(f"Teacher: {kept['teacher']:.2f} on {len(rest)} images", _table(kept), sep="\n")


def drawn_pictures(images: Path, count: int) -> tuple[list[Path], torch.Tensor]:
    """So many of the test images, and the numbers of the others."""
    files = pictures_in(images / "test")
    drawn = torch.randperm(len(files), generator=seeded(0, "bench", "real"))
    return [files[i] for i in drawn[:count].tolist()], drawn[count:].sort().values


def imported(files: list[Path], folder: Path, teacher: Teacher) -> StoredBank:
    """A bank of some of the test images."""
    pictures = folder / "pictures"
    for file in files:
        place = pictures / file.parent.name / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(file.resolve())
    config = BankConfig(crop_fraction=teacher.data.crop_fraction)
    return import_pictures(pictures, folder / "bank", teacher.network, teacher.spec, config)


def _row(
    student: nn.Module, teacher: Teacher, bank: Bank | StoredBank, settings: dict[str, Any],
    before: torch.Tensor, after: torch.Tensor,
) -> dict[str, Any]:  # fmt: skip
    lost, margin = paired_drop(before, after)
    other, spread = held_back_drop(teacher.network, bank, arguments_of(settings))(student)
    return {
        "top1": 100 * after.double().mean().item(),
        "drop": 100 * lost,
        "drop_margin": 100 * margin,
        "agreement": 100 * (1 - other),
        "agreement_margin": 100 * spread,
    }


def _sections(settings: dict[str, Any]) -> Settings:
    return {name: section for name, section in settings.items() if isinstance(section, dict)}


def _seeded(settings: Settings, seed: int) -> Settings:
    return {name: s | {"seed": seed} if "seed" in s else s for name, s in settings.items()}


def _table(kept: dict[str, Any]) -> str:
    lines = [list(_COLUMNS)]
    rows = sorted(kept["rows"], key=lambda r: (r["variant"], r["seed"]))
    for row in sorted(rows, key=lambda r: str(r["width"]), reverse=True):
        lines.append([
            row["variant"], row["width"].upper(), str(row["seed"]), f"{row['minutes']:.1f}",
            f"{row['top1']:.2f}", f"{row['drop']:.2f} ± {row['drop_margin']:.2f}",
            f"{row['agreement']:.1f} ± {row['agreement_margin']:.1f}",
        ])  # fmt: skip
    return markdown_rows(lines, left=2)


if __name__ == "__main__":
    typer.run(main)
