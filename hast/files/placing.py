"""Write files so that nothing half-written is ever seen in their place, and read them."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hast.errors import InputError, first_line


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Say in one line that a disk is full or a folder closed.

    Raises:
        InputError: something could not be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise InputError(
            f"{place}: cannot be written ({os.strerror(error.errno)}); what was there is kept: free"
            " some room or name another place, then run again"
        ) from None


@contextmanager
def read_errors(
    place: Path | str, *others: type[Exception], way_out: str = "fetch or make it again"
) -> Iterator[None]:
    """Say in one line that a file cannot be read.

    Raises:
        InputError: with the reason that the system, or one of the `others`, gives.
    """
    expected: tuple[type[Exception], ...] = (OSError, *others)
    try:
        yield
    except InputError:  # is a ValueError too, and says all itself
        raise
    except expected as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"{place}: cannot be read ({reason}); {way_out}") from None


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
    """Write a file that is seen whole or not at all; its folder is made if it is not there.

    Raises:
        InputError: the disk is full, or there can be no such file. What was there is kept.
    """
    side = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            side.write_bytes(content)
            side.replace(path)
        finally:
            side.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
