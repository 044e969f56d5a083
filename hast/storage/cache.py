"""The cache of remote banks: shared by all processes of a user, its size bounded as a whole.

<root>/
  lock              shared by readers, held alone by who fetches or removes
  <bank>/           a folder for each bank, named by the hash of its manifest
    manifest.json   written when the bank is opened
    bank.zarr/      only whole files
    parts/          what has not arrived as a whole; outside the store, where it would be no part of
                    a bank
"""

import fcntl
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hast.storage.bank import STORE
from hast.storage.placing import disk_errors

PARTS = "parts"
_BANK = re.compile(r"[0-9a-f]{16}")


class Cache:
    """A folder of remote banks. Files appear and go only while one process changes it alone."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        """
        Args:
            root: made if it is not there.
            max_bytes: of everything in it.

        Raises:
            InputError: the folder cannot be made.
        """
        self._root, self._max_bytes = root, max_bytes
        with disk_errors(root):
            root.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """No file goes meanwhile; others may read at the same time."""
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Fetch and remove, alone."""
        with self._locked(fcntl.LOCK_EX):
            yield

    def folder(self, digest: str) -> Path:
        """Of the bank whose manifest has this sha256."""
        return self._root / digest[:16]

    def shrink(self, own: Path) -> None:
        """Remove what was not used for the longest time until the rest fits: shards, then what is
        left of banks that have none. To be called while `changing`.

        Args:
            own: folder of the bank that is read; it stays, with one shard at least.
        """
        # Whatever else somebody keeps in this folder is not touched.
        banks = [path for path in self._root.iterdir() if _BANK.fullmatch(path.name)]
        files = {bank: [path for path in bank.rglob("*") if path.is_file()] for bank in banks}
        sizes = {path: path.stat().st_size for inside in files.values() for path in inside}
        excess = sum(sizes.values()) - self._max_bytes
        for path in sorted(filter(_is_shard, sizes), key=_last_use)[:-1]:
            if excess <= 0:
                return
            path.unlink()
            excess -= sizes.pop(path)
        for bank in sorted(banks, key=_last_use):  # a folder is written to when it is opened
            inside = [path for path in files[bank] if path in sizes]
            if excess <= 0:
                return
            if bank != own and not any(map(_is_shard, inside)):
                shutil.rmtree(bank)
                excess -= sum(sizes[path] for path in inside)

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        with disk_errors(self._root):
            file = (self._root / "lock").open("a")  # of its own each time: forked workers share one
        with file:
            fcntl.flock(file, kind)
            try:
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)


def _is_shard(path: Path) -> bool:
    """Whole or in part."""
    return f"/{STORE}/images/c/" in path.as_posix() or path.parent.name == PARTS


def _last_use(path: Path) -> int:
    return path.stat().st_mtime_ns
