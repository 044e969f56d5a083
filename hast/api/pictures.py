"""What is made of a user's own pictures: a bank."""

from pathlib import Path

from torch import nn

from hast.api.samples import Device, frozen_copy
from hast.bank.pictures import import_pictures as write_bank
from hast.bank.stored import StoredBank
from hast.config.bank import BankConfig, Dtype
from hast.config.section import parse_section
from hast.config.spec import ModelSpec


def import_pictures(
    folder: Path | str,
    out: Path | str,
    teacher: nn.Module,
    spec: ModelSpec,
    *,
    dtype: Dtype = "uint8",
    crop_fraction: float = 1.0,
    overwrite: bool = False,
    device: Device = None,
    progress: bool = True,
) -> StoredBank:
    """Make a bank of a folder of unlabelled pictures, for any classifier.

    Args:
        folder: holds the pictures, however deep.
        out: folder of the bank.
        teacher: full-precision classifier, with or without BatchNorm; its answers are the labels.
        spec: what it expects and answers.
        dtype: of the stored pixels.
        crop_fraction: pictures are scaled to cover the input divided by this share, and the centre
            is cut out; 0.875 is usual at 224 x 224.
        overwrite: another bank may be at `out`.
        device: where to compute; by default where the teacher is.
        progress: show a bar, or lines where there is no terminal.

    Returns:
        The bank, left in its files.

    Raises:
        InputError: there are no pictures, one cannot be read, or `out` is there.
    """
    config = parse_section(
        {"dtype": dtype, "crop_fraction": crop_fraction}, BankConfig, name="import_pictures"
    )
    source = frozen_copy(teacher, spec, device)
    return write_bank(
        Path(folder), Path(out), source, spec, config, overwrite=overwrite, show=progress
    )
