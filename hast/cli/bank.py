"""`hast bank`: look at sample banks, derive new ones, carry them between places."""

from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer
from torch import nn

from hast.bank.facts import bank_facts, facts_table
from hast.bank.pictures import import_pictures
from hast.bank.place import check_free
from hast.bank.stored import StoredBank
from hast.bank.toolkits import Form, export_bank
from hast.bank.tools import Preference, check_duplicates, filter_bank, merge_banks
from hast.bank.transfer import files_at, pull_bank, push_bank
from hast.cli.network import Device, Json, tell
from hast.config.bank import BankConfig, Dtype
from hast.config.export import Inputs
from hast.config.section import parse_section
from hast.engine.engine import select_device
from hast.engine.progress import drain
from hast.errors import InputError
from hast.files.placing import write_atomically
from hast.files.teachers import TeacherCard, load_teacher
from hast.files.weights import load_card

app = typer.Typer(help="Look at sample banks, derive new ones, carry them.", no_args_is_help=True)

BankFolder = Annotated[Path, typer.Argument(help="Folder with bank.zarr and manifest.json.")]
TeacherFolder = Annotated[
    Path | None, typer.Option("--teacher", help="Folder of the teacher it must be made for.")
]
Overwrite = Annotated[bool, typer.Option(help="Replace a bank that is there.")]
File = Annotated[Path, typer.Option(help="File to write.")]


@app.command()
def info(bank: BankFolder, as_json: Json = False) -> None:
    """Tell what a bank holds, for which teacher, how it was made, how hard and large it is."""
    facts = bank_facts(StoredBank(bank))
    tell(facts, facts_table(facts), as_json=as_json)


@app.command()
def verify(bank: BankFolder, teacher: TeacherFolder = None) -> None:
    """Check structure, hashes, labels, finiteness and duplicates."""
    found = StoredBank(bank, **_made_for(teacher))
    check_duplicates(found)
    print(f"{bank}: good, {len(found)} samples for teacher {found.card.teacher}")


@app.command()
def preview(
    bank: BankFolder,
    out: File,
    classes: Annotated[int, typer.Option(min=1, help="Rows: classes, evenly spaced.")] = 10,
    columns: Annotated[int, typer.Option(min=1, help="Samples of a class, easy to hard.")] = 8,
) -> None:
    """Draw samples in pixel space as PNG: a row a class, from easy to hard."""
    from hast.report.figures.canvas import to_png
    from hast.report.figures.samples import bank_grid

    found = StoredBank(bank)
    write_atomically(out, to_png(bank_grid(found, classes=classes, columns=columns)))
    print(out)


@app.command()
def card(bank: BankFolder, out: File) -> None:
    """Write one self-contained page: provenance, samples, difficulty, classes, BNS gap."""
    from hast.report.page import bank_page

    write_atomically(out, bank_page(StoredBank(bank)).encode())
    print(out)


@app.command(name="filter")
def filter_(
    bank: BankFolder,
    out: Annotated[Path, typer.Argument(help="Folder of the new bank.")],
    classes: Annotated[
        str | None, typer.Option(help="Numbers or names to keep, such as 0,3,cat.")
    ] = None,
    difficulty: Annotated[str, typer.Option(help="Range to keep, such as 0.2:0.8.")] = "0:1",
    count: Annotated[int | None, typer.Option(min=1, help="The most to keep.")] = None,
    prefer: Annotated[
        Preference, typer.Option(help="Which ones, where more would pass.")
    ] = "first",
    dtype: Annotated[Dtype | None, typer.Option(help="Of the new bank's images.")] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="Its folder, to measure pixels that a narrower type rounds.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Keep some samples of a bank in a new one that names its parent."""
    names = StoredBank(bank).card.spec.class_names
    made = filter_bank(
        bank,
        out,
        classes=[] if classes is None else _classes(classes, names),
        difficulty=_range(difficulty),
        count=count,
        prefer=prefer,
        dtype=dtype,
        teacher=None if teacher is None else _teacher_of(bank, teacher),
        overwrite=overwrite,
    )
    print(f"{out}: {made.samples} samples")


@app.command()
def merge(
    banks: Annotated[list[Path], typer.Argument(help="Banks of one teacher.")],
    out: Annotated[Path, typer.Option(help="Folder of the new bank.")],
    overwrite: Overwrite = False,
) -> None:
    """Join banks of one teacher in a new one; samples that are the same are taken once."""
    made = merge_banks(banks, out, overwrite=overwrite)
    given = sum(StoredBank(bank, verify=False).card.samples for bank in banks)
    print(f"{out}: {made.samples} samples, {given - made.samples} duplicates left out")


@app.command(name="import")
def import_(
    pictures: Annotated[Path, typer.Argument(help="Folder of pictures, however deep.")],
    out: Annotated[Path, typer.Argument(help="Folder of the new bank.")],
    teacher: Annotated[Path, typer.Option(help="Its folder; its answers are the labels.")],
    dtype: Annotated[Dtype, typer.Option(help="Of the bank's images.")] = "uint8",
    crop_fraction: Annotated[
        float, typer.Option(help="Of what covers the input; 0.875 is usual at 224 x 224.")
    ] = 1.0,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Make a bank of unlabelled pictures in place of synthetic samples."""
    check_free(out, overwrite=overwrite)  # before a network is loaded
    values = {"dtype": dtype, "crop_fraction": crop_fraction}
    config = parse_section(values, BankConfig, name="import")
    source = load_teacher(teacher, select_device(device))
    made = import_pictures(pictures, out, source.network, source.spec, config, overwrite=overwrite)
    print(f"{out}: {len(made)} samples")


@app.command()
def export(
    bank: BankFolder,
    out: Annotated[Path, typer.Argument(help="File or folder to write.")],
    form: Annotated[
        str, typer.Option("--as", help="npz, npy, images, or folder: one for each class.")
    ] = "npz",
    inputs: Annotated[
        str | None, typer.Option(help="Of arrays: normalized, pixels in [0, 1], or bytes.")
    ] = None,
) -> None:
    """Write the images for a toolkit that calibrates with files."""
    export_bank(StoredBank(bank), out, cast(Form, form), inputs=cast(Inputs | None, inputs))
    print(out)


@app.command()
def push(
    bank: BankFolder,
    url: Annotated[str, typer.Argument(help="Folder, s3://bucket/path, gs://..., sftp://...")],
    overwrite: Overwrite = False,
) -> None:
    """Send a bank to a URL and verify it there. Run again, it goes on where it stopped."""
    drain(push_bank(bank, url, overwrite=overwrite), total=files_at(bank), label="push")
    print(f"{url}: good, verified at the far end")


@app.command()
def pull(
    url: Annotated[str, typer.Argument(help="Folder, s3://bucket/path, gs://..., sftp://...")],
    out: Annotated[Path, typer.Argument(help="Folder of the bank.")],
    teacher: TeacherFolder = None,
    overwrite: Overwrite = False,
) -> None:
    """Fetch a bank from a URL and verify it. Run again, it goes on where it stopped."""
    blocks = pull_bank(url, out, **_made_for(teacher), overwrite=overwrite)
    drain(blocks, total=files_at(url), label="pull")
    print(f"{out}: good, {StoredBank(out, verify=False).card.samples} samples")


def _made_for(folder: Path | None) -> dict[str, Any]:
    """What a bank must agree with."""
    if folder is None:
        return {}
    card = load_card(folder, TeacherCard)
    return {"teacher": card.fingerprint, "spec": card.spec}


def _teacher_of(bank: Path, folder: Path) -> nn.Module:
    """The teacher in a folder, which must be the one that the bank was made for."""
    teacher = load_teacher(folder, torch.device("cpu"))
    teacher.require_made_for(StoredBank(bank, verify=False).card.teacher, bank)
    return teacher.network


def _classes(text: str, names: tuple[str, ...]) -> list[int]:
    found = [_class(part.strip(), names) for part in text.split(",") if part.strip()]
    if not found:
        raise InputError(f"classes: {text!r} names none; leave --classes out to keep all")
    return found


def _class(text: str, names: tuple[str, ...]) -> int:
    if text in names:
        return names.index(text)
    if text.isdecimal():
        return int(text)
    raise InputError(f"classes: {text!r} is neither a number nor one of {', '.join(names)}")


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low <= high <= 1:
        raise InputError(f"difficulty must be LOW:HIGH with 0 <= LOW <= HIGH <= 1, got {text!r}")
    return low, high
