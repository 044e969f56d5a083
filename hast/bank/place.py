"""Put a finished bank in its place: it is seen whole or not at all, and replaces only a bank."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from hast.bank.manifest import read_manifest
from hast.bank.stored import MANIFEST, STORE
from hast.errors import InputError
from hast.files.placing import disk_errors, side_folder


def check_free(target: Path, *, overwrite: bool) -> None:
    """Refuse to write where something else is than an empty folder, unless that was asked for and
    is a bank.

    Raises:
        InputError: something is at `target`.
    """
    is_folder = target.is_dir() and not target.is_symlink()
    names = {path.name for path in target.iterdir()} if is_folder else {""}
    if not names or not (target.exists() or target.is_symlink()):
        return
    if not overwrite:
        raise InputError(
            f"{target}: is there already and is not overwritten; name another place or give"
            " --overwrite"
        )
    # A bank and nothing else: other things have a `manifest.json` too.
    if not (names <= {STORE, MANIFEST} and _is_bank(target)):
        raise InputError(f"{target}: is no bank; only a bank is overwritten by a bank")


def _is_bank(folder: Path) -> bool:
    with suppress(InputError):
        return (folder / STORE / "zarr.json").is_file() or bool(read_manifest(folder / MANIFEST))
    return False


def place_bank(source: Path, target: Path, *, overwrite: bool, move: bool = False) -> None:
    """Put the finished bank `source` at `target`; what was there goes when it stands. `source`
    stays, and on one disk both share their files; or it moves.

    Args:
        source: its folder.
        target: where it shall be.
        overwrite: a bank may be there already.
        move: `source` lies on the disk of `target`, and goes.

    Raises:
        InputError: something is there, or it cannot be written. What was there is kept.
    """
    check_free(target, overwrite=overwrite)
    with side_folder(target) as side, disk_errors(target):
        new, old = side / "new", side / "old"
        if move:  # a disk without hard links would take a second copy
            os.rename(source, new)
        else:
            for path in [source, *sorted(source.rglob("*"))]:
                _link_or_copy(path, new / path.relative_to(source))
        if target.exists():
            os.rename(target, old)
        try:
            os.rename(new, target)
        except OSError:
            if old.exists():
                os.rename(old, target)
            raise


def _link_or_copy(source: Path, target: Path) -> None:
    if source.is_dir():
        target.mkdir()
        return
    try:
        target.hardlink_to(source)
    except OSError:  # cannot be had across disks, nor on every one
        shutil.copyfile(source, target)
