"""Checks on a Zarr store that may come from anybody, made before Zarr itself opens it."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from hast.errors import InputError

_CODECS = {"sharding_indexed", "bytes", "zstd", "crc32c"}
# Float noise hardly compresses (zstd: 1.08). A store that promises far more than it holds is
# either missing shards or a decompression bomb.
_MAX_EXPANSION = 1000
_SLACK_BYTES = 1 << 20


def check_store(store: Path, arrays: dict[str, tuple[str, int]]) -> dict[str, Any]:
    """Check the structure of a group from its metadata files alone.

    Args:
        store: folder of the group.
        arrays: for each expected array its dtype and number of dimensions.

    Returns:
        The attributes of the group.

    Raises:
        InputError: a link, a missing or malformed metadata file, an unexpected type, shape or
            codec, or more declared than the stored bytes can hold.
    """
    for path in store.rglob("*"):
        if path.is_symlink():
            raise InputError(f"{path}: a store must not hold links")
    group = _metadata(store)
    if group.get("node_type") != "group":
        raise InputError(f"{store}: must be a Zarr v3 group, got {group.get('node_type')!r}")
    for name, (dtype, ndim) in arrays.items():
        _check_array(store / name, dtype, ndim)
    attributes = group.get("attributes")
    if not isinstance(attributes, dict):
        raise InputError(f"{store}: the group must have attributes")
    return attributes


def write_manifest(store: Path, manifest: Path) -> None:
    """Write the sha256 of every file of `store`."""
    manifest.write_text(json.dumps(_hashes(store), indent=2, sort_keys=True) + "\n")


def verify_manifest(store: Path, manifest: Path) -> None:
    """Compare every file of `store` with the manifest.

    Raises:
        InputError: the manifest is missing or malformed, or a file is missing, changed or extra.
    """
    try:
        expected = json.loads(manifest.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{manifest}: cannot be read ({error})") from None
    if not isinstance(expected, dict):
        raise InputError(f"{manifest}: must map file names to sha256 sums")
    found = _hashes(store)
    for what, names in (
        ("missing", expected.keys() - found.keys()),
        ("not in the manifest", found.keys() - expected.keys()),
        ("changed", {n for n in expected.keys() & found.keys() if expected[n] != found[n]}),
    ):
        if names:
            raise InputError(
                f"{store}: {len(names)} file(s) {what}, first {min(names)}; fetch or make it again"
            )


def _metadata(node: Path) -> dict[str, Any]:
    path = node / "zarr.json"
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if not isinstance(content, dict) or content.get("zarr_format") != 3:
        raise InputError(f"{path}: must describe a Zarr v3 node")
    return content


def _check_array(folder: Path, dtype: str, ndim: int) -> None:
    content = _metadata(folder)
    shape, got_dtype = content.get("shape"), content.get("data_type")
    if got_dtype != dtype:
        raise InputError(f"{folder}: data type must be {dtype}, got {got_dtype!r}")
    if not _is_shape(shape, ndim):
        raise InputError(f"{folder}: must have {ndim} positive dimensions, got {shape!r}")
    unknown = _codec_names(content.get("codecs")) - _CODECS
    if unknown:
        raise InputError(
            f"{folder}: codecs {sorted(unknown)} are not allowed; allowed are {sorted(_CODECS)}"
        )
    assert isinstance(shape, list)
    _check_shards(folder, content, shape)
    declared = math.prod(shape) * np.dtype(dtype).itemsize
    stored = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    if declared > stored * _MAX_EXPANSION + _SLACK_BYTES:
        raise InputError(
            f"{folder}: declares {declared} bytes but stores {stored}; shards are missing or the"
            " store is hostile"
        )


def _check_shards(folder: Path, content: dict[str, Any], shape: list[int]) -> None:
    """All shards are there and no others: a missing one would read as zeros."""
    grid = content.get("chunk_grid")
    configuration = grid.get("configuration") if isinstance(grid, dict) else None
    shards = configuration.get("chunk_shape") if isinstance(configuration, dict) else None
    if not _is_shape(shards, len(shape)) or list(shards or ())[1:] != shape[1:]:
        raise InputError(f"{folder}: must be sharded along its first dimension, got {shards!r}")
    assert shards is not None
    rest = "/0" * (len(shape) - 1)
    expected = {f"c/{i}{rest}" for i in range(-(-shape[0] // shards[0]))}
    stored = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    missing = expected - stored
    if missing:
        raise InputError(f"{folder}: {len(missing)} shard(s) missing, first {min(missing)}")


def _is_shape(shape: Any, ndim: int) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) == ndim
        and all(isinstance(n, int) and n > 0 for n in shape)
    )


def _codec_names(codecs: Any) -> set[str]:
    """Names of all codecs, those nested in a sharding codec included."""
    names: set[str] = set()
    for codec in codecs if isinstance(codecs, list) else []:
        inner = codec.get("configuration", {}) if isinstance(codec, dict) else {}
        names.add(str(codec.get("name") if isinstance(codec, dict) else codec))
        if isinstance(inner, dict):
            names |= _codec_names(inner.get("codecs")) | _codec_names(inner.get("index_codecs"))
    return names


def _hashes(store: Path) -> dict[str, str]:
    files = sorted(p for p in store.rglob("*") if p.is_file())
    return {p.relative_to(store).as_posix(): _sha256(p) for p in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
