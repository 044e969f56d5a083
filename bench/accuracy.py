"""Recipes and their parts, side by side: the same teacher, banks and compute, over seeds.

    python -m bench.accuracy --source pytorchcv:resnet20_cifar10 --weights W.safetensors \
        --images FOLDER --mean 0.49139968,0.48215827,0.44653124 \
        --std 0.24703233,0.24348505,0.26158768 --variants hast,best

The last step is the result. Recipes are compared on the first half of each class of the test
folder and reported on the other half. Writes bench/out/NAME.json after every student; the same
command again goes on where it was stopped, also amid a fine-tuning, and with more seeds, widths or
variants adds to it. `--looks 10` notes ten accuracies along the way of a student.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import torch
import typer
from safetensors.torch import load_file, save
from torch import Tensor

from bench.accuracy_results import Results, Row, packed
from bench.experiment import (
    Images,
    Mean,
    Shape,
    Source,
    Std,
    Teacher,
    Weights,
    Widths,
    bank_of,
    correct_answers,
    halves,
    is_digits,
    open_teacher,
    parse_widths,
)
from bench.run import OUT
from hast.api.samples import train_generator
from hast.api.students import calibrate
from hast.bank.record import Bank
from hast.config.bit_width import BitWidth
from hast.config.finetune import FinetuneConfig
from hast.config.recipes import Settings, merged, method_settings, size_settings
from hast.config.section import parse_section
from hast.config.synthesize import SynthesisConfig
from hast.engine.engine import Engine, Precision, Switch, choose_engine, place
from hast.engine.runtime import device_of, seeded
from hast.errors import one_of
from hast.files.datasets import open_batches
from hast.files.partial import CheckpointFile, name_of
from hast.files.placing import write_atomically
from hast.networks.fingerprint import fingerprint
from hast.networks.generator import Generator
from hast.pipeline.bank import make_bank
from hast.pipeline.finetune import finetune_student

_NO_STEPS = {"steps": 0, "milestones": []}
_ABSOLUTE = {"bns": "absolute", "hard_weight": 10.0, "steps": 400}  # those it needs at size quick
# What each variant changes of the recipe that its name begins with.
VARIANTS: dict[str, Settings] = {
    "hast": {},
    "hast, γ = 0": {"synthesize": {"gamma": 0.0}},
    "hast, ε = 0": {"quantize": {"promotion_step": 0.0}},
    "hast, λ = 0": {"quantize": {"alignment_weight": 0.0}},
    "hast, none of them": {
        "synthesize": {"gamma": 0.0},
        "quantize": {"promotion_step": 0.0, "alignment_weight": 0.0},
    },
    "hast, ranges only": {"quantize": _NO_STEPS},
    "hast, real data": {"bank": {"source": "train"}},
    "best": {},
    "best, reconstructed only": {"quantize": _NO_STEPS},
    "best, ranges only": {"reconstruct": {"steps": 0}, "quantize": _NO_STEPS},
    "best, ends at 8 bits": {"layers": {"first_last_bits": 8}},
    "best, absolute BNS": {"synthesize": _ABSOLUTE},
    "best, absolute BNS, reconstructed only": {"synthesize": _ABSOLUTE, "quantize": _NO_STEPS},
    "best, spectrum": {"synthesize": {"space": "spectrum", "learning_rate": 0.1}},
    "best, ε = 0": {"quantize": {"promotion_step": 0.0}},
    "best, ε = 0, twice the steps": {"quantize": {"promotion_step": 0.0, "steps": 1200}},
    "best, ε = 0.01": {"quantize": {"promotion_step": 0.01}},
    "best, ε = 0.04": {"quantize": {"promotion_step": 0.04}},
    "best, Gaussian start": {"synthesize": {"init": "gaussian"}},
    "best, more images of fewer steps": {"synthesize": {"samples": 2560, "steps": 100}},
    "best, T = 4": {"quantize": {"temperature": 4.0}},
    "best, slow scales": {"quantize": {"scale_rate_factor": 1.0}},
    "best, BatchNorm corrected": {"calibrate": {"correct_batch_norm": True}},
    "best, ranges of the generator": {"calibrate": {"images": "generator"}},
    "best, crops in synthesis": {"synthesize": {"augment_probability": 1.0, "min_crop_scale": 0.5}},
    "best, λ = 0": {"quantize": {"alignment_weight": 0.0}},
    "best, real data": {"bank": {"source": "train"}},
}
LARGEST = "Of a pixel, where the teacher shall take those and normalize them itself."
BANKS = "Folder to keep banks in for other runs; empty it after a change of the synthesis."


def main(
    source: Source,
    images: Images,
    mean: Mean,
    std: Std,
    weights: Weights = None,
    shape: Shape = "",
    variants: Annotated[str, typer.Option(help="Separated by semicolons, or `all`.")] = "hast;best",
    widths: Widths = "w4a4,w3a3",
    size: str = "quick",
    crop_fraction: float = 1.0,
    largest: Annotated[float, typer.Option(help=LARGEST)] = 0.0,
    samples: int = 0,
    steps: int = 0,
    seeds: int = 3,
    first_seed: int = 0,
    out: str = "accuracy",
    banks: Annotated[Path | None, typer.Option(help=BANKS)] = None,
    placement: str = "relu",
    device: str = "auto",
    precision: str = "auto",
    compile: str = "auto",
    looks: int = 0,
    checkpoint: float = 60.0,
) -> None:
    teacher = open_teacher(
        source, weights, images, mean, std, device, shape, crop_fraction, largest
    )
    names = list(VARIANTS) if variants == "all" else variants.split(";")
    engine = choose_engine(
        device_of(teacher.network), work=float("inf"),
        precision=cast(Precision, one_of("--precision", precision, Precision)),
        compile=cast(Switch, one_of("--compile", compile, Switch)),
    )  # fmt: skip
    known = fingerprint(teacher.network.state_dict())
    results = Results.open(OUT / f"{out}.json", known, device_of(teacher.network), engine)
    if not results.teacher:
        results.set_teacher(halves(*correct_answers(teacher.network, teacher)))
    overrides: Settings = {
        "synthesize": {"samples": samples} if samples else {},
        "layers": {"placement": placement},
        "quantize": {"flip": not is_digits(images)},
    }
    if steps:
        overrides["quantize"] |= {"steps": steps, "milestones": [steps // 2, steps * 3 // 4]}
    variant_settings = {name: settings_of(name, size, overrides) for name in names}
    for name, settings in variant_settings.items():
        results.define(name, settings)
    for seed in range(first_seed, first_seed + seeds):
        shared = Shared(teacher, seed, size, banks, engine)
        for name, settings in variant_settings.items():
            for width in parse_widths(widths):
                if not results.has(name, str(width), seed):
                    watch = Watch(
                        OUT / out,
                        checkpoint,
                        looks,
                        partial(results.look, f"{name} {width} {seed}"),
                    )
                    measured = measure(settings, width, shared, f"{name} {width}", watch)
                    results.add(Row(name, str(width), seed, **measured))
    results.show()


def settings_of(name: str, size: str, overrides: Settings) -> Settings:
    """All that makes a variant what it is, by section."""
    changes, recipe = VARIANTS[name], name.partition(",")[0]
    parts = [size_settings(size, recipe), method_settings(recipe), changes, overrides]
    settings = merged(parts)
    if changes.get("quantize", {}).get("steps") == 0:
        settings["quantize"] |= _NO_STEPS
    return settings


def measure(
    settings: Settings, width: BitWidth, shared: "Shared", label: str, watch: "Watch"
) -> dict[str, Any]:
    """Top-1 of one student before and after fine-tuning, and which images it gets right after."""
    teacher, seed = shared.teacher, shared.seed
    bank = shared.bank(settings)
    student = calibrate(
        teacher.network, teacher.spec, bank, **width._asdict(), seed=seed,
        layers=settings["layers"], calibration=settings["calibrate"],
        reconstruction=settings["reconstruct"],
        generator=shared.generator if settings["calibrate"]["images"] == "generator" else None,
    )  # fmt: skip
    right, labels = correct_answers(student, teacher)
    before = halves(right, labels)["all"]
    config = parse_section(settings["quantize"] | {"seed": seed}, FinetuneConfig, name="quantize")
    if config.steps:
        name = name_of(
            "hast.pipeline.finetune", settings, width, seed, fingerprint(student.state_dict()),
            fingerprint({"images": bank.images}), device_of(student).type, shared.engine,
            str(torch.__version__),
        )  # fmt: skip
        path = watch.path.with_name(f"{watch.path.name}-{name}.safetensors")
        file = CheckpointFile(path, every=watch.every)

        def after_step(done: int) -> None:
            if watch.looks and done % max(1, config.steps // watch.looks) == 0:
                watch.tell(done, halves(*correct_answers(student, teacher))["all"])

        finetune_student(
            student.requires_grad_(True), teacher.network, teacher.spec, bank.images, config,
            engine=shared.engine, file=file, after_step=after_step, label=label,
        )  # fmt: skip
        file.remove()
        right, labels = correct_answers(student, teacher)
    return {"before": before, "right": packed(right)} | halves(right, labels)


class Watch(NamedTuple):
    """How a fine-tuning is followed."""

    path: Path  # of its checkpoint, of which its name is the beginning
    every: float  # seconds between two checkpoints
    looks: int  # at the accuracy, on the way
    tell: Callable[[int, float], None]  # steps and top-1


class Shared:
    """What the variants of one seed have in common: generator and banks."""

    def __init__(
        self, teacher: Teacher, seed: int, size: str, kept_in: Path | None, engine: Engine
    ) -> None:
        self.teacher, self.seed, self.engine, self._kept_in = teacher, seed, engine, kept_in
        self._generator = size_settings(size, "hast")["generator"]
        self._banks: dict[str, Bank] = {}

    @cached_property
    def generator(self) -> Generator:
        network, spec, *_ = self.teacher
        trained = train_generator(network, spec, seed=self.seed, **self._generator)
        return place(trained, device_of(network))

    def bank(self, settings: Settings) -> Bank:
        """Its images; no recipe here asks for their labels."""
        synthesis = settings["synthesize"] | {"seed": self.seed}
        real = settings.get("bank", {}).get("source") == "train"
        key = f"{real} {json.dumps(synthesis)}"
        if key not in self._banks:
            images = self._real(synthesis["samples"]) if real else self._synthetic(synthesis)
            self._banks[key] = bank_of(self.teacher.network, self.teacher.spec, images)
        return self._banks[key]

    def _synthetic(self, settings: Mapping[str, Any]) -> Tensor:
        if self._kept_in is None:
            return self._made(settings)
        meaning = [fingerprint(self.teacher.network.state_dict()), settings]
        name = hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()
        path = self._kept_in / f"{name}.safetensors"
        if not path.exists():
            write_atomically(path, save({"images": self._made(settings)}))
        return load_file(path)["images"].contiguous(memory_format=torch.channels_last)

    def _made(self, settings: Mapping[str, Any]) -> Tensor:
        network, spec, *_ = self.teacher
        config = parse_section(dict(settings), SynthesisConfig, name="synthesize")
        return make_bank(network, spec, config, dtype="float32", engine=self.engine).images

    def _real(self, samples: int) -> Tensor:
        """As many real training images as the bank has, evenly spread over the folder."""
        batches = open_batches(self.teacher.data, "train", self.teacher.spec)
        images = torch.cat([x for x, _ in batches])
        chosen = images[torch.linspace(0, len(images) - 1, samples).long()]
        # The folder is in the order of its classes, and a part of a bank must hold all of them.
        return chosen[torch.randperm(samples, generator=seeded(self.seed, "bench", "real"))]


if __name__ == "__main__":
    typer.run(main)
