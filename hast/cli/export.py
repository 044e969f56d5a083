"""The command `hast export`: from a student of the pipeline, or a packed checkpoint, to a file."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, cast, get_args

import torch
import typer
from torch import nn

from hast.bank.stored import StoredBank
from hast.config.export import ExportConfig, Format
from hast.config.section import parse_section
from hast.config.targets import TARGETS, Target, onnx_target
from hast.errors import InputError, one_of
from hast.export.bundle import Compared, compare_formats, require_programs, write_format
from hast.files.checkpoints import CONFIG, load, save
from hast.files.students import load_student
from hast.files.teachers import load_teacher
from hast.networks.provenance import spec_and_plan


def export(
    student: Annotated[
        Path, typer.Argument(help="A packed checkpoint, or a folder of the stage `quantize`.")
    ],
    out: Annotated[
        Path, typer.Argument(help="NAME.onnx, NAME.pt2, or a folder for a packed checkpoint.")
    ],
    target: Annotated[
        str | None,
        typer.Option(
            help=f"What will run it: {', '.join(get_args(Target))}, which takes NAME.pt2."
        ),
    ] = None,
    inputs: Annotated[
        str, typer.Option(help="What it takes: normalized images, pixels in [0, 1], or bytes.")
    ] = "normalized",
    fold_batch_norm: Annotated[
        bool, typer.Option("--fold-batch-norm", help="Let scales and biases take it in.")
    ] = False,
    bank: Annotated[
        Path | None,
        typer.Option(
            help="Its images set the ranges that a target needs; compares answers on them."
        ),
    ] = None,
    teacher: Annotated[
        Path, typer.Option(help="Of a student that is no packed checkpoint.")
    ] = Path("artifacts/teacher"),
    trust_source: Annotated[
        bool, typer.Option("--trust-source", help="Let a checkpoint run the code it names.")
    ] = False,
) -> None:
    """Write a student as ONNX, as a torch.export program, or as a packed checkpoint.

    \b
    hast export artifacts/students/w4a4 student.onnx --bank artifacts/bank
    hast export artifacts/export/w4a4 fast.onnx --target onnxruntime --bank artifacts/bank
    hast export artifacts/students/w3a3 packed --fold-batch-norm
    """
    kind = cast(Format | None, {".onnx": "onnx", ".pt2": "program"}.get(out.suffix))
    if target is not None:
        one_of("--target", target, Target)
        if kind != "onnx" and not (
            kind == "program" and TARGETS[cast(Target, target)].reads_programs
        ):
            raise InputError(
                f"--target is of ONNX files, or pt2e of NAME.pt2, and {out} is neither; name one,"
                " or leave it out"
            )
    network = _open(student, teacher, trust_source)
    spec, plan = spec_and_plan(network)
    own = onnx_target(plan.target) if kind == "onnx" else plan.target
    runs_on = cast(Target, target or own)
    values = {"inputs": inputs, "fold_batch_norm": fold_batch_norm}
    config = parse_section(values, ExportConfig, name="export")
    images = None
    if bank is not None and kind is not None:
        images = StoredBank(bank, spec=spec).images[: config.samples]
        if kind == "onnx":
            require_programs(runs_on)
    if kind is not None:
        write_format(network, out, kind, config, images, runs_on)
    elif out.suffix:
        raise InputError(f"{out}: must end with .onnx or .pt2, or be a folder without an ending")
    else:
        save(network, out, fold_batch_norm=fold_batch_norm)
    files = [out] if out.is_file() else [p for p in out.iterdir() if p.is_file()]
    print(f"{out}: {sum(p.stat().st_size for p in files):,} bytes")
    if images is not None and kind is not None:
        _compare(compare_formats(network, {kind: out}, {"bank": images}, config, runs_on))


def _open(folder: Path, teacher: Path, trust_source: bool) -> nn.Module:
    if (folder / CONFIG).is_file():
        return load(folder, trust_source=trust_source)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a packed checkpoint or a student")
    return load_student(folder, load_teacher(teacher, torch.device("cpu")), torch.device("cpu"))


def _compare(results: Iterable[Compared]) -> None:
    for _, program, _, parity in results:
        print(
            f"{program}: {parity.agreement:.2%} of {parity.samples} answers equal, logits"
            f" differ by {parity.mean_difference:.3g} on average, {parity.max_difference:.3g} at"
            f" most (standard deviation {parity.logit_spread:.3g})"
        )
