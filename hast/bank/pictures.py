"""A folder of pictures as a bank: what the teacher answers to them are their labels.

Pictures are scaled, cropped and normalized as test images are, and measured as they are stored.
Nothing is synthesized, so this also serves networks without BatchNorm.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import PIL
import torch
import zarr
from torch import Tensor, nn

from hast.bank.pixels import Stored, decode, encode
from hast.bank.place import check_free
from hast.bank.record import BankCard, Derivation
from hast.bank.stored import StoredBank
from hast.bank.tools import batch_size_of
from hast.bank.writer import BankWriter, new_bank
from hast.config.bank import BankConfig
from hast.config.spec import ModelSpec
from hast.engine.machine import __version__
from hast.engine.progress import track
from hast.errors import InputError
from hast.files.pictures import SUFFIXES, PictureFiles, digest_of, pictures_in
from hast.loops.profile import Profile, profile_batches, whole_profile
from hast.networks.fingerprint import fingerprint


def import_pictures(
    folder: Path,
    target: Path,
    teacher: nn.Module,
    spec: ModelSpec,
    config: BankConfig,
    *,
    overwrite: bool = False,
    show: bool = True,
) -> StoredBank:
    """Write the pictures below a folder as a bank, a shard at a time.

    Args:
        folder: holds pictures, however deep; their order is that of their names.
        target: folder of the bank.
        teacher: frozen, eval mode.
        spec: what it expects and answers.
        config: type of the pixels and share of a picture that is kept.
        overwrite: another bank may be at `target`.
        show: show progress.

    Raises:
        InputError: there are no pictures, one cannot be read, they do not fit the teacher, or
            `target` is there.
    """
    check_free(target, overwrite=overwrite)
    files = pictures_in(folder)
    if not files:
        raise InputError(f"{folder}: holds no pictures ({' '.join(SUFFIXES)}); mend the name")
    told = {"crop_fraction": config.crop_fraction, "pictures": len(files)}
    card = BankCard(
        samples=len(files),
        dtype=config.dtype,
        spec=spec,
        teacher=fingerprint(teacher.state_dict()),
        synthesis={},
        libraries={
            "hast": __version__, "torch": str(torch.__version__), "zarr": zarr.__version__,
            "pillow": PIL.__version__,
        },
        derived=Derivation(operation="import", parameters=told | {"sha256": digest_of(files)}),
    )  # fmt: skip
    size = batch_size_of(card)
    batches = PictureFiles(files, spec, config.crop_fraction, size)
    with new_bank(target, card, size, overwrite=overwrite) as writer:
        parts = _write(writer, teacher, batches, config)
        whole = whole_profile(track(parts, total=len(batches), label="import", show=show))
        # All that can fail, such as answers that are NaN, comes before the bank is in its place.
        StoredBank(writer.seal(whole.difficulty, whole.bns_gap))
    return StoredBank(target, verify=False)


def _write(
    writer: BankWriter, teacher: nn.Module, batches: PictureFiles, config: BankConfig
) -> Iterator[Profile]:
    """Write each shard when its last batch is measured. Held are the codes of one shard, for a
    batch is read when its record is asked for."""
    held: list[Stored] = []

    def decoded() -> Iterator[tuple[Tensor, None]]:
        for images in batches:
            held.append(encode(images.numpy(), config.dtype))
            yield decode(*held[-1]), None

    profiles = profile_batches(teacher, decoded())
    for shard in writer.shards():
        done = []
        for profile in islice(profiles, len(writer.batches(shard))):
            done.append(profile)
            yield profile
        stored, affine = (np.concatenate(part) for part in zip(*held, strict=True))
        labels = torch.cat([profile.labels for profile in done])
        writer.write_stored(shard, (stored, affine), labels.numpy())
        held.clear()
