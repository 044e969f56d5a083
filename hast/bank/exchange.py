"""A folder or object store through which machines hand each other the shards of one bank.

<url>/bank-<key>/teacher/…, generator/…   what the workers read
<url>/bank-<key>/shards/<index>/…         files of a finished shard
<url>/bank-<key>/done/<name>              empty; written last, so what is there is whole
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

from hast.bank.writer import BankWriter
from hast.errors import InputError, TransientError


class Exchange(NamedTuple):
    """The place of one bank."""

    root: str  # fsspec URL

    @classmethod
    def of(cls, url: str, key: str) -> "Exchange":
        """
        Args:
            url: of an fsspec file system, such as s3://bucket/path, or a folder.
            key: names the bank.
        """
        base = url.rstrip("/") if "://" in url else str(Path(url).resolve())
        return cls(f"{base}/bank-{key}")

    def send_inputs(self, folders: dict[str, Path]) -> None:
        """Copy folders that every worker reads, once for each bank."""
        for name, folder in folders.items():
            files = sorted(f.relative_to(folder) for f in folder.rglob("*") if f.is_file())
            self._send(name, folder, files, to=name)

    def fetch_input(self, name: str, into: Path) -> Path:
        """Copy a folder that was sent; returns where it is."""
        if not self._fetch(name, into / name, at=name):
            raise TransientError(f"{self.root}/{name}: nothing there; was the run ended?")
        return into / name

    def has_shard(self, start: int) -> bool:
        files, root = self._open()
        return bool(files.exists(f"{root}/done/shard-{start}"))

    def send_shard(self, writer: BankWriter, shard: slice) -> None:
        name = f"shard-{shard.start}"
        self._send(name, writer.folder, writer.shard_files(shard), to=f"shards/{shard.start}")

    def fetch_shard(self, writer: BankWriter, shard: slice) -> bool:
        """Copy a shard into an unfinished bank; False where nobody has sent it."""
        return self._fetch(f"shard-{shard.start}", writer.folder, at=f"shards/{shard.start}")

    def clear(self) -> None:
        """Remove everything of this bank."""
        files, root = self._open()
        if files.exists(root):
            files.rm(root, recursive=True)

    def _open(self) -> tuple[Any, str]:
        import fsspec

        try:
            files, root = fsspec.core.url_to_fs(self.root)
        except (ImportError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{self.root}: not a folder or URL that can be used ({reason})"
            ) from None
        return files, root

    def _send(self, name: str, folder: Path, paths: list[Path], *, to: str) -> None:
        files, root = self._open()
        marker = f"{root}/done/{name}"
        if files.exists(marker):
            return
        for path in paths:
            target = f"{root}/{to}/{path.as_posix()}"
            _make_folder(files, target)
            files.put_file(str(folder / path), target)
        _make_folder(files, marker)
        files.pipe_file(marker, b"")

    def _fetch(self, name: str, folder: Path, *, at: str) -> bool:
        files, root = self._open()
        if not files.exists(f"{root}/done/{name}"):
            return False
        prefix = f"{root}/{at}/"
        # Sorted: the columns of a shard come last, and mean that it is whole.
        for source in sorted(files.find(prefix)):
            target = folder / source.lstrip("/").removeprefix(prefix.lstrip("/"))
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f"{target.name}.partial")
            files.get_file(source, str(partial))
            os.replace(partial, target)
        return True


def _make_folder(files: Any, target: str) -> None:
    if "file" in files.protocol:  # object stores have no folders
        files.makedirs(target.rpartition("/")[0], exist_ok=True)
