"""The command `hast export`: from a student of the pipeline, or a packed checkpoint, to a file."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, cast, get_args

import torch
import typer
from rich.console import Console
from torch import Tensor, nn

from hast.bank.stored import StoredBank
from hast.config.export import ExportConfig, Format
from hast.config.section import parse_section
from hast.config.targets import TARGETS, Target, onnx_target
from hast.errors import InputError, one_of
from hast.export.bundle import check, compare_formats, require_programs, runtime_of, write_format
from hast.export.latency import latency_of, only_a_figure
from hast.files.checkpoints import CONFIG, load, save
from hast.files.placing import write_atomically
from hast.files.students import load_student
from hast.files.tables import Latency
from hast.files.teachers import load_teacher
from hast.networks.provenance import spec_and_plan
from hast.report.tables import latency_table

Student = Annotated[
    Path, typer.Argument(help="A packed checkpoint, or a folder of the stage `quantize`.")
]
Teacher = Annotated[Path, typer.Option(help="Of a student that is no packed checkpoint.")]
TrustSource = Annotated[
    bool, typer.Option("--trust-source", help="Let a checkpoint run the code it names.")
]


def export(
    student: Student,
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
    min_agreement: Annotated[
        float, typer.Option(help="With --bank: least share of equal answers, else nothing is left.")
    ] = ExportConfig().min_agreement,
    max_mean_difference: Annotated[
        float, typer.Option(help="With --bank: of logits, in standard deviations of them.")
    ] = ExportConfig().max_mean_difference,
    teacher: Teacher = Path("artifacts/teacher"),
    trust_source: TrustSource = False,
) -> None:
    """Write a student as ONNX, as a torch.export program, or as a packed checkpoint.

    An ONNX file is timed where it will run, beside full precision.

    \b
    hast export artifacts/students/w4a4 student.onnx --bank artifacts/bank
    hast export artifacts/export/w4a4 fast.onnx --target onnxruntime --bank artifacts/bank
    hast export artifacts/students/w3a3 packed --fold-batch-norm
    """
    kind = cast(Format | None, {".onnx": "onnx", ".pt2": "program"}.get(out.suffix))
    if target is not None:
        one_of("--target", target, Target)
        reads_programs = TARGETS[cast(Target, target)].reads_programs
        if not (kind == "onnx" or (kind == "program" and reads_programs)):
            raise InputError(
                f"--target is of ONNX files, or pt2e of NAME.pt2, and {out} is neither; name one,"
                " or leave it out"
            )
    network = open_student(student, teacher, trust_source=trust_source)
    spec, plan = spec_and_plan(network)
    own = onnx_target(plan.target) if kind == "onnx" else plan.target
    runs_on = cast(Target, target or own)
    values = {
        "inputs": inputs, "fold_batch_norm": fold_batch_norm, "min_agreement": min_agreement,
        "max_mean_difference": max_mean_difference,
    }  # fmt: skip
    config = parse_section(values, ExportConfig, name="export")
    if kind is not None:
        if kind == "onnx" and (bank or runtime_of(runs_on)):
            require_programs(runs_on)
        images = StoredBank(bank, spec=spec).images[: config.samples] if bank else None
        _write_program(network, out, kind, config, images, runs_on)
    elif out.suffix:
        raise InputError(f"{out}: must end with .onnx or .pt2, or be a folder without an ending")
    else:
        save(network, out, fold_batch_norm=fold_batch_norm)
        size = sum(path.stat().st_size for path in out.iterdir() if path.is_file())
        print(f"{out}: {size:,} bytes")


def _write_program(
    student: nn.Module, out: Path, kind: Format, config: ExportConfig, images: Tensor | None,
    runs_on: Target,
) -> None:  # fmt: skip
    """Write one file, where it agrees with the student, and say what it is like."""
    with TemporaryDirectory() as folder:
        file = write_format(student, Path(folder) / out.name, kind, config, images, runs_on)
        if images is not None:
            given = {kind: file}, {"bank": images}
            for compared in compare_formats(student, *given, config, runs_on):
                parity = compared.parity
                print(
                    f"{compared.program}: {parity.agreement:.2%} of {parity.samples} answers equal,"
                    f" logits differ by {parity.mean_difference:.3g} on average,"
                    f" {parity.max_difference:.3g} at most (standard deviation"
                    f" {parity.logit_spread:.3g})"
                )
                check(compared, config, spec_and_plan(student)[1])
        write_atomically(out, file.read_bytes())
        print(f"{out}: {out.stat().st_size:,} bytes")
        if kind == "onnx" and (runtime := runtime_of(runs_on)):
            with only_a_figure(str(out)):
                found = latency_of(student, file, inputs=config.inputs, runtime=runtime)
                Console().print(latency_table({out.name: Latency(runtime, found)}))


def open_student(folder: Path, teacher: Path, *, trust_source: bool) -> nn.Module:
    """Of a packed checkpoint, or of a stage's folder and the teacher's.

    Raises:
        InputError: the folder holds neither.
    """
    if (folder / CONFIG).is_file():
        return load(folder, trust_source=trust_source)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a packed checkpoint or a student")
    return load_student(folder, load_teacher(teacher, torch.device("cpu")))
