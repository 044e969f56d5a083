"""`hast evaluate`: how good a student is on images of one's own."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hast.api.students import evaluate as measured
from hast.cli import network
from hast.cli.export import Student, Teacher, TrustSource, open_student
from hast.config.dataset import DatasetConfig
from hast.config.params import usual_crop
from hast.config.section import parse_section
from hast.engine.engine import select_device
from hast.files.datasets import open_batches
from hast.networks.provenance import spec_and_plan


def evaluate(
    student: Student,
    data_root: Annotated[Path, typer.Option(help="Folder with test/CLASS/IMAGE.")],
    crop_fraction: Annotated[
        float | None, typer.Option(help="Share of a picture; else 0.875 of large ones, or all.")
    ] = None,
    teacher: Teacher = Path("artifacts/teacher"),
    trust_source: TrustSource = False,
    device: network.Device = "auto",
    as_json: network.Json = False,
) -> None:
    """Measure a student on labelled images.

    \b
    hast evaluate packed --data-root data
    hast evaluate artifacts/students/w4a4 --data-root data --json | jq .top1
    """
    opened = open_student(student, teacher, trust_source=trust_source)
    spec = spec_and_plan(opened)[0]
    crop = usual_crop(spec.input_shape) if crop_fraction is None else crop_fraction
    given = {"name": "folder", "root": data_root, "crop_fraction": crop}
    images = open_batches(parse_section(given, DatasetConfig, name="evaluate"), "test", spec)
    found = measured(opened, images, device=select_device(device))
    if as_json:
        values = {"samples": found.samples, "top1": found.top1, "top5": found.top5}
        print(json.dumps(values, indent=2))
    else:
        print(f"{student}: top-1 {found.top1:.2%}, top-5 {found.top5:.2%} of {found.samples:,}")
