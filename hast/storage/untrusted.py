"""Checks on a Zarr store that may come from anybody, made before Zarr itself opens it.

Structure comes from the metadata files alone; nothing is allocated for what they declare.
"""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hast.errors import InputError

# Float noise hardly compresses (zstd: 1.08). A store that promises far more than it holds is
# either missing shards or a decompression bomb.
_MAX_EXPANSION = 100
_SLACK_BYTES = 8 << 20
_MAX_METADATA = 1 << 20
_INDEX_CODECS = ["bytes", "crc32c"]
_CHUNK_CODECS = ["bytes", "zstd"]


class Rule(NamedTuple):
    """What an array must look like."""

    dtypes: tuple[str, ...]
    ndim: int


class Layout(NamedTuple):
    """How an array lies on disk. It is cut along its first dimension only."""

    shape: tuple[int, ...]
    dtype: str
    rows_of_file: int
    rows_of_chunk: int  # those of a file, where it holds one chunk
    sharded: bool

    @property
    def chunk_bytes(self) -> int:
        return self.rows_of_chunk * math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    def files(self) -> list[str]:
        """The file of every shard, in order."""
        rest = "/0" * (len(self.shape) - 1)
        return [f"c/{i}{rest}" for i in range(-(-self.shape[0] // self.rows_of_file))]


class Structure(NamedTuple):
    """What the metadata of a group say."""

    attributes: dict[str, Any]
    arrays: dict[str, Layout]


def check_store(
    store: Path, required: Mapping[str, Rule], optional: Collection[str] = ()
) -> Structure:
    """Check the structure of a group from its metadata files alone.

    Args:
        store: folder of the group.
        required: the arrays that it may hold.
        optional: those of them that may be absent.

    Raises:
        InputError: a link, a missing or malformed metadata file, an unexpected array, type, shape
            or codec, or more declared than the stored bytes can hold.
    """
    _only_files_and_folders(store)
    group = _metadata(store)
    if group.get("node_type") != "group":
        raise InputError(f"{store}: must be a Zarr v3 group, got {group.get('node_type')!r}")
    attributes = group.get("attributes")
    if not isinstance(attributes, dict):
        raise InputError(f"{store}: the group must have attributes")
    present = {n: r for n, r in required.items() if n not in optional or (store / n).is_dir()}
    arrays = {name: _check_array(store / name, rule) for name, rule in present.items()}
    return Structure(attributes, arrays)


def _only_files_and_folders(store: Path) -> None:
    for path in (store, *store.rglob("*")):
        if path.is_symlink():
            raise InputError(
                f"{path}: a store must not hold links; where DVC made them, run"
                " `dvc config cache.type reflink,copy` and `dvc checkout --relink`"
            )
        if not (path.is_file() or path.is_dir()):
            raise InputError(f"{path}: a store must hold files and folders only")


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


def _check_array(folder: Path, rule: Rule) -> Layout:
    content = _metadata(folder)
    shape, dtype = content.get("shape"), content.get("data_type")
    if dtype not in rule.dtypes:
        raise InputError(f"{folder}: data type must be {' or '.join(rule.dtypes)}, got {dtype!r}")
    if not _is_shape(shape, rule.ndim):
        raise InputError(f"{folder}: must have {rule.ndim} positive dimensions, got {shape!r}")
    assert isinstance(shape, list)
    layout = _layout(folder, content, tuple(shape), str(dtype))
    stored = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    declared = math.prod(shape) * np.dtype(layout.dtype).itemsize
    held = sum((folder / name).stat().st_size for name in stored)
    if declared > held * _MAX_EXPANSION + _SLACK_BYTES:
        raise InputError(
            f"{folder}: declares {declared} bytes but stores {held}; shards are missing or the"
            " store is hostile"
        )
    missing = set(layout.files()) - stored
    if missing:
        raise InputError(f"{folder}: {len(missing)} shard(s) missing, first {min(missing)}")
    return layout


def _layout(folder: Path, content: dict[str, Any], shape: tuple[int, ...], dtype: str) -> Layout:
    codecs = content.get("codecs")
    file_shape = _configuration(content.get("chunk_grid")).get("chunk_shape")
    sharded = _names(codecs) == ["sharding_indexed"]
    chunk_shape = file_shape
    if sharded:
        assert isinstance(codecs, list)
        inner = _configuration(codecs[0])
        chunk_shape, codecs = inner.get("chunk_shape"), inner.get("codecs")
        if (
            _names(inner.get("index_codecs")) != _INDEX_CODECS
            or inner.get("index_location", "end") != "end"
        ):
            raise InputError(f"{folder}: the index of a shard must stand at its end with a crc32c")
    if _names(codecs) != _CHUNK_CODECS:
        raise InputError(
            f"{folder}: codecs {_names(codecs)} are not allowed; they must be {_CHUNK_CODECS}"
        )
    rows, chunk_rows = (_rows(folder, part, shape) for part in (file_shape, chunk_shape))
    if rows % chunk_rows:
        raise InputError(f"{folder}: shards of {rows} do not hold whole chunks of {chunk_rows}")
    encoding, grid = content.get("chunk_key_encoding"), content.get("chunk_grid")
    if _names([encoding, grid]) != ["default", "regular"] or content.get("storage_transformers"):
        raise InputError(f"{folder}: must have a regular grid, default keys and no transformers")
    return Layout(shape, dtype, rows, chunk_rows, sharded)


def _rows(folder: Path, part: Any, shape: tuple[int, ...]) -> int:
    """Rows of a file or chunk that is as wide as the array."""
    if not _is_shape(part, len(shape)) or tuple(part[1:]) != shape[1:]:
        raise InputError(f"{folder}: must be cut along its first dimension only, got {part!r}")
    return int(part[0])


def _is_shape(shape: Any, ndim: int) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) == ndim
        and all(type(n) is int and 0 < n < 1 << 48 for n in shape)
    )


def _names(codecs: Any) -> list[str]:
    if not isinstance(codecs, list):
        return []
    return [str(c.get("name") if isinstance(c, dict) else c)[:40] for c in codecs]


def _configuration(part: Any) -> dict[str, Any]:
    configuration = part.get("configuration") if isinstance(part, dict) else None
    return configuration if isinstance(configuration, dict) else {}
