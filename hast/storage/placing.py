"""Put finished files and folders into their place: nothing half-written is ever seen there."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hast.errors import InputError


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Say in one line that a disk is full or a folder closed.

    Raises:
        InputError: something could not be written.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) or error.errno is None:
            raise
        reason = os.strerror(error.errno)
        raise InputError(
            f"{place}: cannot be written ({reason}); what was there is kept: free some room or"
            " name another place, then run again"
        ) from None


@contextmanager
def side_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target`, on the same disk, that is gone afterwards."""
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is seen whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    side = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        side.write_bytes(content)
        side.replace(path)
    finally:
        side.unlink(missing_ok=True)


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
    is_bank = (target / "bank.zarr").is_dir() or (target / "manifest.json").is_file()
    if target.is_symlink() or not target.is_dir() or (not is_bank and any(target.iterdir())):
        raise InputError(f"{target}: is no bank; only a bank is overwritten by a bank")


def place_folder(source: Path, target: Path, *, overwrite: bool, keep: bool = False) -> None:
    """Put the finished folder `source` at `target`; what was there goes when it stands.

    Args:
        source: a folder.
        target: where it shall be.
        overwrite: a bank may be there already.
        keep: leave `source` as well; on one disk both share their files.

    Raises:
        InputError: something is there, or it cannot be written. What was there is kept.
    """
    check_free(target, overwrite=overwrite)
    with side_folder(target) as side, disk_errors(target):
        new, old = side / "new", side / "old"
        try:
            if keep:
                shutil.copytree(source, new, copy_function=os.link)
            else:
                os.rename(source, new)
        except (OSError, shutil.Error) as error:
            if not _crosses_disks(error):
                raise
            shutil.rmtree(new, ignore_errors=True)
            _copy(source, new)
        if target.exists():
            os.rename(target, old)
        try:
            os.rename(new, target)
        except OSError:
            if old.exists():
                os.rename(old, target)
            raise
    if not keep:
        shutil.rmtree(source, ignore_errors=True)  # where it was copied


def _crosses_disks(error: OSError) -> bool:
    """Whether a rename or hard links failed because they cannot be had here."""
    return error.errno in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, None)  # shutil.Error has none


def _copy(source: Path, target: Path) -> None:
    for path in [source, *sorted(source.rglob("*"))]:
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir(parents=True)
        else:
            shutil.copyfile(path, copy)
