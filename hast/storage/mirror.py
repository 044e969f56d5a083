"""A bank behind a URL, of which only what is looked at is fetched, into a cache of bounded size."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hast.errors import InputError
from hast.storage.bank import MANIFEST, STORE, StoredBank
from hast.storage.chunks import check_chunks
from hast.storage.manifest import parse_manifest, sha256_of
from hast.storage.placing import write_atomically
from hast.storage.remote import Remote
from hast.storage.transfer import remote_manifest

_SHARDS = "images/c/"


class MirroredBank(StoredBank):
    """Reads like a bank on this disk. Every file is compared with the manifest when it arrives; the
    shards that were not used for the longest time go when the cache is full."""

    def __init__(
        self, url: str, cache: Path, *, max_bytes: int = 4 << 30, teacher: str | None = None
    ) -> None:
        """
        Args:
            url: of the bank.
            cache: folder for what is fetched; kept for the next time.
            max_bytes: of shards in the cache; one shard is kept at least.
            teacher: the fingerprint the bank must have been made for, if any.

        Raises:
            InputError: there is no bank, or something in it is wrong.
        """
        self._remote, self._max_bytes = Remote(url), max_bytes
        content = remote_manifest(self._remote)
        if content is None:
            raise InputError(f"{url}: no {MANIFEST}; there is no bank, or its push has not ended")
        self._files = parse_manifest(content, name=f"{url}/{MANIFEST}")
        self._verified: set[str] = set()  # files of the cache, compared with the manifest
        folder = cache / hashlib.sha256(content).hexdigest()[:16]
        self._store = folder / STORE
        for name in self._files:
            if not name.startswith(_SHARDS):
                self._fetch(name)
        write_atomically(folder / MANIFEST, content)
        super().__init__(folder, teacher=teacher, lazy=True)
        for name, layout in self.layouts.items():
            if name != "images":
                check_chunks(self._store / name, layout)

    def stored(self, rows: slice) -> tuple[NDArray[Any], NDArray[np.float32]]:
        first, last = rows.start // self.shard_size, (rows.stop - 1) // self.shard_size
        for index in range(first, last + 1):
            name = self.shard_files[index]
            if name not in self._files:
                raise InputError(f"{self._remote.url}: the manifest does not name {name}")
            if self._fetch(name):
                check_chunks(self._store / "images", self.layouts["images"], only=index)
            (self._store / name).touch()
        found = super().stored(rows)
        self._shrink()
        return found

    def _fetch(self, name: str) -> bool:
        """Whether the file had to be fetched."""
        target, digest = self._store / name, self._files[name]
        if target.is_file() and (name in self._verified or sha256_of(target) == digest):
            return False
        for _ in self._remote.download(f"{STORE}/{name}", target, digest):
            pass
        self._verified.add(name)
        return True

    def _shrink(self) -> None:
        shards = [p for p in (self._store / "images/c").rglob("*") if p.is_file()]
        shards.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        used = 0
        for place, path in enumerate(shards):
            used += path.stat().st_size
            if place and used > self._max_bytes:
                path.unlink()
                self._verified.discard(path.relative_to(self._store).as_posix())
