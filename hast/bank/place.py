"""Put a finished bank in its place: it is seen whole or not at all, and replaces only a bank."""

import os
import shutil
from pathlib import Path

from hast.bank.manifest import read_manifest
from hast.bank.stored import MANIFEST, STORE
from hast.errors import InputError
from hast.files.placing import disk_errors, side_folder


def check_free(target: Path, *, overwrite: bool) -> None:
    """Refuse to write where something is, unless that was asked for and is a bank.

    Raises:
        InputError: `target` exists.
    """
    if not target.exists() and not target.is_symlink():
        return
    if not overwrite:
        raise InputError(
            f"{target}: is there already and is not overwritten; name another place or give"
            " --overwrite"
        )
    if target.is_symlink() or not _may_go(target):
        raise InputError(f"{target}: is no bank; only a bank is overwritten by a bank")


def _may_go(folder: Path) -> bool:
    """Whether a folder is empty, or a bank and nothing else: other things have a `manifest.json`
    too."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    if not names:
        return True
    return names <= {STORE, MANIFEST} and (
        (folder / STORE / "zarr.json").is_file() or _lists_files(folder / MANIFEST)
    )


def _lists_files(manifest: Path) -> bool:
    try:
        return bool(read_manifest(manifest))
    except InputError:
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
