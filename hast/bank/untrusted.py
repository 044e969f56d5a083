"""Checks on a Zarr store that may come from anybody. Zarr itself never opens one.

Arrays are not compressed and a chunk is a file, so the metadata say to the byte how large every
file is. A file of another size is damaged or hostile, and nothing is ever allocated for what is
only declared: what will be read is there.

Source: Zarr v3, core specification and the codec `bytes`.
"""

import json
import math
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hast.bank.record import FORMAT, VERSION, BankCard
from hast.config.section import parse_section
from hast.errors import InputError
from hast.files.placing import read_errors

_MAX_METADATA = 1 << 20
_MAX_SIZE = 1 << 48
_MAX_CLASSES = 1_000_000  # counts of each class are held in memory
_UNSHOWN = {"Cc", "Cs"}  # control characters; halves of UTF-16 pairs, which no file can hold


class Layout(NamedTuple):
    """How an array lies on disk. It is cut along its first dimension only, a file a chunk."""

    folder: Path
    shape: tuple[int, ...]
    dtype: str
    rows: int  # of a file; in the last one what is beyond the array is padding

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


def read_card(store: Path) -> BankCard:
    """The card in the attributes of a group, of whose arrays nothing is known yet.

    Raises:
        InputError: a link or a device is there, it is no well-formed group, a value is missing,
            malformed or absurd, or a text cannot be shown.
    """
    attributes = _attributes(store)
    if attributes.get("format") != FORMAT:
        raise InputError(f"{store}: not a {FORMAT}; its format is {attributes.get('format')!r}")
    if attributes.get("version") != VERSION:
        raise InputError(
            f"{store}: a bank of version {attributes.get('version')!r}, this program reads version"
            f" {VERSION}; make it again (`dvc repro synthesize`), or ask who shared it to make and"
            " share it again with the same program"
        )
    for text in _texts(attributes):
        if any(unicodedata.category(letter) in _UNSHOWN for letter in text):
            raise InputError(
                f"{store}: its attributes hold {text[:40]!r}, with characters that cannot be shown"
                " or written as UTF-8"
            )
    card = parse_section(attributes, BankCard, name=str(store))
    if card.spec.num_classes > _MAX_CLASSES:
        raise InputError(
            f"{store}: num_classes must be at most {_MAX_CLASSES}, got {card.spec.num_classes}"
        )
    return card


def _attributes(store: Path) -> dict[str, Any]:
    for path in (store, *store.rglob("*")):
        if path.is_symlink():
            raise InputError(
                f"{path}: a store must not hold links; where DVC made them, run"
                " `dvc config cache.type reflink,copy` and `dvc checkout --relink`"
            )
        if not (path.is_file() or path.is_dir()):
            raise InputError(f"{path}: a store must hold files and folders only")
    attributes = _metadata(store, "group").get("attributes")
    if not isinstance(attributes, dict):
        raise InputError(f"{store}: the group must have attributes")
    return attributes


def _texts(value: Any) -> Iterator[str]:
    """Every text and key in a JSON value, however deep."""
    rest = [value]
    while rest:
        value = rest.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            rest += [*value, *value.values()]
        elif isinstance(value, list):
            rest += value


def check_array(folder: Path, dtype: str, shape: tuple[int | None, *tuple[int, ...]]) -> Layout:
    """Check an array from its metadata and the sizes of its files alone.

    Args:
        folder: of the array.
        dtype: the type that it must have.
        shape: the shape that it must have; None leaves a dimension open.

    Raises:
        InputError: metadata are missing or malformed, type or shape differ, it is compressed or
            cut in another way, or a file is missing or has another size than its chunk.
    """
    content = _metadata(folder, "array")
    first, *rest = shape
    try:
        length = content["shape"][0] if first is None else first
        rows = content["chunk_grid"]["configuration"]["chunk_shape"][0]
    except (KeyError, IndexError, TypeError):
        length = rows = None
    if not all(type(size) is int and 0 < size < _MAX_SIZE for size in (length, rows, *rest)):
        raise InputError(f"{folder}: shape and chunk_shape must hold positive integers below 2**48")
    _check_same(folder, content, dtype, [length, *rest], [rows, *rest])
    layout = Layout(folder, (length, *rest), dtype, rows)
    file_bytes = math.prod((rows, *rest)) * np.dtype(dtype).itemsize
    for name in layout.files():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path}: is missing; fetch or make the store again")
        size = path.stat().st_size
        if size != file_bytes:
            raise InputError(
                f"{path}: has {size} bytes but a chunk takes {file_bytes}; the file is"
                " damaged or hostile"
            )
    return layout


def _check_same(
    folder: Path, content: dict[str, Any], dtype: str, shape: list[int], chunk: list[int]
) -> None:
    """Compare all that decides how bytes become an array with the one form that is allowed."""
    plain = {"name": "bytes"}
    little = plain | {"configuration": {"endian": "little"}}
    ordered = np.dtype(dtype).itemsize > 1 or content.get("codecs") == [little]
    wanted = {
        "data_type": dtype,
        "shape": shape,
        "codecs": [little if ordered else plain],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "storage_transformers": [],
    }
    for name, value in wanted.items():
        found = content.get(name, [])
        if found != value:
            raise InputError(f"{folder}: must have {name} {value}, got {found!r:.80}")


def _metadata(node: Path, kind: str) -> dict[str, Any]:
    path = node / "zarr.json"
    with read_errors(path, ValueError, RecursionError):
        if path.stat().st_size > _MAX_METADATA:
            raise InputError(f"{path}: larger than {_MAX_METADATA >> 20} MB; not a Zarr v3 node")
        content = json.loads(path.read_bytes())
    found = content if isinstance(content, dict) else {}
    if (found.get("zarr_format"), found.get("node_type")) != (3, kind):
        raise InputError(f"{path}: must describe a Zarr v3 {kind}")
    return found
