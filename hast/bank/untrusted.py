"""Checks on a Zarr store that may come from anybody. Zarr itself never opens one.

Arrays are not compressed and a chunk is a file, so the metadata say to the byte how large every
file is. A file of another size is damaged or hostile, and nothing is ever allocated for what is
only declared: what will be read is there.

Source: Zarr v3, core specification and the codec `bytes`.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hast.errors import InputError

_MAX_METADATA = 1 << 20


class Layout(NamedTuple):
    """How an array lies on disk. It is cut along its first dimension only, a file a chunk."""

    folder: Path
    shape: tuple[int, ...]
    dtype: str
    rows: int  # of a file; in the last one what is beyond the array is padding

    @property
    def file_bytes(self) -> int:
        return self.rows * math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    def files(self) -> Iterator[str]:
        """The file of every chunk, in order."""
        rest = "/0" * (len(self.shape) - 1)
        return (f"c/{i}{rest}" for i in range(-(-self.shape[0] // self.rows)))

    def maps(self) -> list[NDArray[Any]]:
        """The array, file by file: mapped read-only, so that memory holds only what is used."""
        kind, shape = np.dtype(self.dtype).newbyteorder("<"), (self.rows, *self.shape[1:])
        parts = [np.memmap(self.folder / name, kind, "r", shape=shape) for name in self.files()]
        left = self.shape[0] - (len(parts) - 1) * self.rows
        return [*parts[:-1], parts[-1][:left]]


def read_attributes(store: Path) -> dict[str, Any]:
    """The attributes of a group, of whose arrays nothing is known yet.

    Raises:
        InputError: a link or a device is there, or no well-formed group.
    """
    for path in (store, *store.rglob("*")):
        if path.is_symlink():
            raise InputError(
                f"{path}: a store must not hold links; where DVC made them, run"
                " `dvc config cache.type reflink,copy` and `dvc checkout --relink`"
            )
        if not (path.is_file() or path.is_dir()):
            raise InputError(f"{path}: a store must hold files and folders only")
    group = _metadata(store)
    if group.get("node_type") != "group":
        raise InputError(f"{store}: must be a Zarr v3 group, got {group.get('node_type')!r}")
    attributes = group.get("attributes")
    if not isinstance(attributes, dict):
        raise InputError(f"{store}: the group must have attributes")
    return attributes


def check_array(folder: Path, dtype: str, shape: tuple[int | None, ...]) -> Layout:
    """Check an array from its metadata and the sizes of its files alone.

    Args:
        folder: of the array.
        dtype: the type that it must have.
        shape: the shape that it must have; None leaves a dimension open.

    Raises:
        InputError: metadata are missing or malformed, type or shape differ, it is compressed or
            cut in another way, or a file is missing or has another size than its chunk.
    """
    content = _metadata(folder)
    found, kind = content.get("shape"), content.get("data_type")
    if kind != dtype:
        raise InputError(f"{folder}: data type must be {dtype}, got {_short(kind)}")
    if not _is_shape(found, shape):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise InputError(f"{folder}: must have shape [{wanted}], got {_short(found)}")
    assert isinstance(found, list)
    _check_encoding(folder, content, dtype)
    chunk = _configuration(content.get("chunk_grid")).get("chunk_shape", [])
    if not _is_shape(chunk, (None, *found[1:])):
        raise InputError(
            f"{folder}: must be cut along its first dimension only, got chunks of {_short(chunk)}"
        )
    layout = Layout(folder, tuple(found), dtype, chunk[0])
    for name in layout.files():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path}: is missing; fetch or make the store again")
        size = path.stat().st_size
        if size != layout.file_bytes:
            raise InputError(
                f"{path}: has {size} bytes but a chunk takes {layout.file_bytes}; the file is"
                " damaged or hostile"
            )
    return layout


def _check_encoding(folder: Path, content: dict[str, Any], dtype: str) -> None:
    codecs = content.get("codecs", [])
    if _names(codecs) != ["bytes"]:
        raise InputError(
            f"{folder}: codecs {_names(codecs)} are not allowed; an array must not be compressed"
            " or sharded, its only codec is 'bytes'"
        )
    endian = _configuration(codecs[0]).get("endian")
    if endian != "little" and not (endian is None and np.dtype(dtype).itemsize == 1):
        raise InputError(f"{folder}: bytes must be little endian, got {_short(endian)}")
    encoding, grid = content.get("chunk_key_encoding"), content.get("chunk_grid")
    separator = _configuration(encoding).get("separator", "/")
    if (
        _names([encoding, grid]) != ["default", "regular"]
        or separator != "/"
        or content.get("storage_transformers")
    ):
        raise InputError(f"{folder}: must have a regular grid, default keys and no transformers")


def _metadata(node: Path) -> dict[str, Any]:
    path = node / "zarr.json"
    try:
        if path.stat().st_size > _MAX_METADATA:
            raise InputError(f"{path}: larger than {_MAX_METADATA >> 20} MB; not a Zarr v3 node")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if not isinstance(content, dict) or content.get("zarr_format") != 3:
        raise InputError(f"{path}: must describe a Zarr v3 node")
    return content


def _is_shape(found: Any, wanted: tuple[int | None, ...]) -> bool:
    return (
        isinstance(found, list)
        and len(found) == len(wanted)
        and all(type(n) is int and 0 < n < 1 << 48 for n in found)
        and all(want in (None, n) for want, n in zip(wanted, found, strict=True))
    )


def _names(parts: Any) -> list[str]:
    if not isinstance(parts, list):
        return []
    return [str(p.get("name") if isinstance(p, dict) else p)[:40] for p in parts]


def _configuration(part: Any) -> dict[str, Any]:
    configuration = part.get("configuration") if isinstance(part, dict) else None
    return configuration if isinstance(configuration, dict) else {}


def _short(value: Any) -> str:
    return repr(value)[:80]
