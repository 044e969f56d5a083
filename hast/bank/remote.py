"""A folder behind a URL that fsspec knows (a path, s3://, gs://, sftp://, ...), with retries."""

import errno
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hast.errors import InputError, first_line
from hast.files.placing import disk_errors, sha256_of

_WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds before each further try
_ATTEMPTS = 3  # to carry a file that arrives damaged
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}  # know no folders

ResultT = TypeVar("ResultT")


class Remote:
    """Files below a URL. What fails is tried again; what keeps failing ends in one line."""

    def __init__(self, url: str) -> None:
        """
        Raises:
            InputError: fsspec or what it needs for this kind of URL is not installed.
        """
        self.url = url.rstrip("/")
        try:
            from fsspec.core import url_to_fs
            from fsspec.utils import get_protocol

            self._files, root = url_to_fs(url)
            self._protocol = get_protocol(url)
        except (ImportError, ValueError) as error:
            raise InputError(
                f"{url}: cannot be opened ({first_line(error)}); for remote banks run"
                " `pip install 'hast[remote]'`, or install what fsspec needs for this kind of URL"
            ) from None
        self._root = root.rstrip("/")

    @property
    def folder(self) -> Path | None:
        """Where it is on a disk of this machine; None where it is elsewhere."""
        return Path(self._root) if self._protocol in ("file", "local") else None

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        return self._look(name, lambda: int(self._files.info(self._path(name))["size"]))

    def names(self, folder: str) -> list[str]:
        """All files below a folder."""
        found = self._look(folder, lambda: self._files.find(self._path(folder))) or []
        return sorted(path[len(self._root) + 1 :] for path in found)

    def read(self, name: str) -> bytes:
        return self._try(name, lambda: bytes(self._files.cat_file(self._path(name))))

    def write(self, name: str, content: bytes) -> None:
        self._make_folder_of(name)
        self._try(name, lambda: self._files.pipe_file(self._path(name), content))

    def remove(self, name: str) -> None:
        self._try(name, lambda: self._files.rm_file(self._path(name)))

    def clear(self) -> None:
        """Remove everything."""
        if self.names(""):
            self._try("", lambda: self._files.rm(self._root, recursive=True))

    def holds(self, name: str, sha256: str) -> bool:
        """Whether a file is there and, read back, the expected one."""

        def digest() -> str:
            with self._files.open(self._path(name), "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()

        return self._look(name, digest) == sha256

    def upload(self, name: str, source: Path, sha256: str) -> None:
        """Send a file and read it back. A file that is there already is not sent again.

        Raises:
            InputError: the far end holds something else, even after several tries.
        """
        if self.holds(name, sha256):
            return
        self._make_folder_of(name)
        for _ in range(_ATTEMPTS):
            self._try(name, lambda: self._files.put_file(str(source), self._path(name)))
            if self.holds(name, sha256):
                return
        raise InputError(f"{self.url}/{name}: differs from what was sent, after {_ATTEMPTS} tries")

    def download(self, name: str, target: Path, sha256: str) -> None:
        """Fetch a file; it is at `target` when it is what the hash says, and not before.

        Raises:
            InputError: the file is missing, or what arrives is not what the hash says.
        """
        part = target.with_name(f"{target.name}.part")
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(_ATTEMPTS):
            self._try(name, lambda: self._files.get_file(self._path(name), str(part)))
            if sha256_of(part) == sha256:
                part.replace(target)
                return
            part.unlink()
        raise InputError(f"{self.url}/{name}: differs from its hash in the manifest; damaged there")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _make_folder_of(self, name: str) -> None:
        if self._protocol not in _OBJECT_STORES:
            folder = self._path(name).rpartition("/")[0]
            self._try(name, lambda: self._files.makedirs(folder, exist_ok=True))

    def _look(self, name: str, action: Callable[[], ResultT]) -> ResultT | None:
        """As `_try`, past what a file system remembers; None where nothing is there."""

        def fresh() -> ResultT | None:
            self._files.invalidate_cache()
            try:
                return action()
            except FileNotFoundError:
                return None

        return self._try(name, fresh)

    def _try(self, name: str, action: Callable[[], ResultT]) -> ResultT:
        for wait in (*_WAITS, None):
            try:
                return action()
            except Exception as error:  # file systems raise nearly anything
                final = isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError)
                full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
                if final or full or wait is None:
                    way_out = "free some room on the disk" if full else "mend it"
                    raise InputError(
                        f"{self.url}/{name}: {first_line(error)}; what was carried is kept:"
                        f" {way_out} and run again"
                    ) from None
                time.sleep(wait)
        raise AssertionError
