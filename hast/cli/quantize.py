"""`hast quantize`: from a checkpoint to a packed student in one command, without a project."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console
from torch import nn

from hast.api import zero_shot
from hast.api.students import check_bank
from hast.api.students import quantize as make_student
from hast.bank.pictures import import_pictures
from hast.bank.record import Bank
from hast.bank.stored import StoredBank
from hast.bank.transfer import source_digests
from hast.cli import network
from hast.config.bank import BankConfig
from hast.config.bit_width import BitWidth
from hast.config.dataset import DatasetConfig
from hast.config.section import parse_section, write_yaml
from hast.config.spec import ModelSpec
from hast.errors import InputError
from hast.files.checkpoints import save
from hast.files.datasets import Batches, open_batches
from hast.loops.evaluate import predict_all
from hast.math.intervals import paired_drop
from hast.networks.generator import Generator
from hast.networks.size import packed_size
from hast.pipeline.search import Candidate, Trial
from hast.report.tables import trials_table

PARAMS = "params.yaml"


def quantize(
    source: network.Source,
    out: Annotated[Path, typer.Option(help="Folder of the packed checkpoint.")] = Path("packed"),
    weights: network.Weights = None,
    weights_entry: network.WeightsEntry = "auto",
    source_args: network.SourceArgs = "{}",
    input_shape: network.InputShape = None,
    mean: network.Numbers = None,
    std: network.Numbers = None,
    bits: Annotated[str | None, typer.Option(help="Code widths, such as w4a8.")] = None,
    max_drop: Annotated[
        str | None,
        typer.Option(help="In place of bits: find the fewest that lose at most 1%, say."),
    ] = None,
    attempts: Annotated[int, typer.Option(min=1, help="Students to try for it, at most.")] = 8,
    bank: Annotated[
        Path | None, typer.Option(help="A bank, or a folder of pictures; none synthesizes one.")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder with test/CLASS/IMAGE, to measure the accuracy.")
    ] = None,
    recipe: network.Recipe = "best",
    size: network.Size = "quick",
    minutes: network.Minutes = None,
    seed: int = 0,
    device: network.Device = "auto",
    overwrite: Annotated[bool, typer.Option(help="Replace what is at OUT.")] = False,
    as_json: network.Json = False,
) -> None:
    """Make a packed low-bit student of a pretrained network, without its data.

    OUT also holds params.yaml, with which the pipeline makes the same student again.

    \b
    hast quantize torchvision:resnet18 --weights resnet18.pth --input-shape 3x224x224 \\
        --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --bits w4a8
    hast quantize timm:resnet18 --weights model.safetensors --max-drop 1%
    """
    if (bits is None) == (max_drop is None):
        raise InputError("give either --bits, such as w4a8, or --max-drop, such as 1%")
    if out.exists() and not overwrite:
        raise InputError(f"{out}: is there already; name another folder or give --overwrite")
    width = None if bits is None else BitWidth.parse(bits)
    allowed = 0.0 if max_drop is None else _share(max_drop)
    teacher, spec, values = network.with_settings(
        source, source_args, weights, weights_entry, input_shape=input_shape, mean=mean, std=std,
        recipe=recipe, size=size, seed=seed, minutes=minutes, device=device,
        bank_source=None if bank is None else str(bank),
        data_root=None if data_root is None else str(data_root),
    )  # fmt: skip
    dataset = parse_section(values["dataset"], DatasetConfig, name="dataset")
    images = open_batches(dataset, "test", spec)  # before any work

    many = "" if max_drop is None else f"; at most {attempts} students"
    print(f"{source}: {network.said_of_sizes(values)}{many}", file=sys.stderr)
    with _samples(teacher, spec, values) as (generator, samples):
        arguments = {"generator": generator, **zero_shot.arguments_of(values)}
        held_back = zero_shot.held_back_drop(teacher, samples, arguments)
        trials: tuple[Trial, ...] = ()
        if width is not None:
            candidate = Candidate(width)
            student = make_student(teacher, spec, samples, **width._asdict(), **arguments)
        else:
            found = zero_shot.quantize_within(
                teacher, spec, samples, max_drop=allowed, attempts=attempts, **arguments,
                drop=zero_shot.top1_drop(teacher, images) if len(images) else held_back,
            )  # fmt: skip
            candidate, student, trials = found.best.candidate, found.best.student, found.trials
        lost, margin = held_back(student)
    chosen = _plain(candidate)
    values["bit_widths"] = [chosen["bits"]]
    values["layers"]["overrides"] = chosen["overrides"]
    save(student, out)
    write_yaml(out / PARAMS, values, comment=f"hast quantize {source}")
    made: dict[str, Any] = {
        **chosen,
        "size_bytes": packed_size(student),
        "full_size_bytes": packed_size(teacher),
        "held_back": {"agreement": 1 - lost, "margin": margin},
        "test": _measured(teacher, student, images) | {"selected_by": bool(trials)},
        "trials": [
            _plain(t.candidate)
            | {name: getattr(t, name) for name in ("size_bytes", "drop", "margin", "holds")}
            for t in trials
        ],
    }
    if as_json:
        print(json.dumps(made, indent=2))
        return
    if trials:
        Console().print(trials_table(made["trials"], max_drop=allowed))
    _say(made, out)


@contextmanager
def _samples(
    teacher: nn.Module, spec: ModelSpec, values: dict[str, Any]
) -> Iterator[tuple[Generator | None, Bank | StoredBank]]:
    """A generator, where something uses it, and the bank: given, of pictures, or synthesized."""
    config = parse_section(values["bank"], BankConfig, name="bank")
    if config.source is None:
        yield zero_shot.make_samples(teacher, spec, values)
    elif source_digests(config.source)["manifest"]:
        bank = StoredBank(config.source)
        check_bank(bank, teacher, spec)
        yield None, bank
    else:
        with TemporaryDirectory() as folder:
            target = Path(folder) / "bank"
            yield None, import_pictures(Path(config.source), target, teacher, spec, config)


def _measured(teacher: nn.Module, student: nn.Module, images: Batches) -> dict[str, Any]:
    if not len(images):
        return {"samples": 0}
    both = {"teacher": teacher, "student": student}
    seen = predict_all(both, images, total=len(images), label="evaluate")
    drop, margin = paired_drop(*(said.answer == seen.labels for said in seen.by_network.values()))
    before, after = (seen.evaluation(name, reference="teacher").top1 for name in both)
    return {
        "samples": len(seen.labels), "teacher_top1": before, "top1": after,
        "drop": drop, "drop_margin": margin,
    }  # fmt: skip


def _say(made: dict[str, Any], out: Path) -> None:
    smaller = made["full_size_bytes"] / made["size_bytes"]
    held, test = made["held_back"], made["test"]
    print(f"{out}: {made['bits']}, {made['size_bytes']:,} bytes, {smaller:.1f}x smaller")
    print(
        f"  gives the teacher's answer to {held['agreement']:.1%} ± {held['margin']:.1%} of crops"
        " of samples that nobody trained on"
    )
    if test["samples"]:
        print(
            f"  top-1 {test['top1']:.2%} of {test['samples']:,} test images, the teacher's is"
            f" {test['teacher_top1']:.2%}: it loses {100 * test['drop']:.2f} ±"
            f" {100 * test['drop_margin']:.2f} points"
            + ("; it was selected by these images" if test["selected_by"] else "")
        )
    print(f"  {out / PARAMS} has its numbers: copied into a project, `dvc repro` makes it again")


def _plain(candidate: Candidate) -> dict[str, Any]:
    narrower = [override.model_dump(exclude_none=True) for override in candidate.overrides]
    return {"bits": str(candidate.bits), "overrides": narrower}


def _share(text: str) -> float:
    """Read 1% or 0.01."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise InputError(f"--max-drop must be a share such as 1% or 0.01, got {text!r}")
    return value
