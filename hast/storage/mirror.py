"""A bank behind a URL, of which only what is looked at is fetched, into a cache of bounded size."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hast.errors import InputError
from hast.storage.bank import MANIFEST, STORE, StoredBank
from hast.storage.cache import PARTS, Cache
from hast.storage.chunks import check_chunks
from hast.storage.manifest import parse_manifest, sha256_of
from hast.storage.placing import write_atomically
from hast.storage.remote import Remote
from hast.storage.transfer import remote_manifest

_SHARDS = "images/c/"


class MirroredBank(StoredBank):
    """Reads like a bank on this disk. Every file is compared with the manifest when it arrives; the
    shards that were not used for the longest time go when the cache is full. Any number of
    processes may read through one cache; one of them fetches at a time."""

    def __init__(
        self, url: str, cache: Path, *, max_bytes: int = 4 << 30, teacher: str | None = None
    ) -> None:
        """
        Args:
            url: of the bank.
            cache: folder for what is fetched; kept for the next time.
            max_bytes: of the whole cache; one shard is kept at least.
            teacher: the fingerprint the bank must have been made for, if any.

        Raises:
            InputError: there is no bank, or something in it is wrong.
        """
        self._remote, self._cache = Remote(url), Cache(cache, max_bytes)
        content = remote_manifest(self._remote)
        if content is None:
            raise InputError(f"{url}: no {MANIFEST}; there is no bank, or its push has not ended")
        self._files = parse_manifest(content, name=f"{url}/{MANIFEST}")
        self._digest = hashlib.sha256(content).hexdigest()
        self._verified: set[str] = set()  # shards that were looked at
        folder = self._cache.folder(self._digest)
        self._store = folder / STORE
        with self._cache.changing():
            self._fetch_all_but_shards()
            write_atomically(folder / MANIFEST, content)
            super().__init__(folder, teacher=teacher, lazy=True)
            for name, layout in self.layouts.items():
                if name != "images":
                    check_chunks(self._store / name, layout)

    @property
    def digest(self) -> str:
        return self._digest

    def stored(self, rows: slice) -> tuple[NDArray[Any], NDArray[np.float32]]:
        first, last = rows.start // self.shard_size, (rows.stop - 1) // self.shard_size
        with self._cache.reading():
            if all(map(self._is_ready, range(first, last + 1))):
                return super().stored(rows)
        with self._cache.changing():
            for index in range(first, last + 1):
                self._make_ready(index)
            found = super().stored(rows)
            self._cache.shrink(self.folder)
        return found

    def _is_ready(self, index: int) -> bool:
        """Whether a shard is in the cache and good; if so it counts as used."""
        name = self.shard_files[index]
        if name not in self._verified or not (self._store / name).is_file():
            return False
        (self._store / name).touch()
        return True

    def _make_ready(self, index: int) -> None:
        name = self.shard_files[index]
        if name not in self._files:
            raise InputError(f"{self._remote.url}: the manifest does not name {name}")
        self._fetch(name)
        if name not in self._verified:
            check_chunks(self._store / "images", self.layouts["images"], only=index)
            self._verified.add(name)
        (self._store / name).touch()

    def _fetch_all_but_shards(self) -> None:
        for path in self._store.rglob("*"):
            if path.is_file() and path.relative_to(self._store).as_posix() not in self._files:
                path.unlink()  # of a process that was killed
        for name in self._files:
            if not name.startswith(_SHARDS):
                self._fetch(name)

    def _fetch(self, name: str) -> None:
        target, digest = self._store / name, self._files[name]
        if target.is_file() and (name in self._verified or sha256_of(target) == digest):
            return
        part = self._store.parent / PARTS / digest
        for _ in self._remote.download(f"{STORE}/{name}", target, digest, part=part):
            pass
