"""Checks on the compressed chunks of an array, made before anything is decompressed.

A zstd frame says how large its content is, and a decoder allocates as much. A file that says more
than its chunk can hold is a decompression bomb.

Source: Zarr v3, sharding codec 1.0; RFC 8878, section 3.1.1.
"""

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hast.errors import InputError
from hast.storage.untrusted import Layout

_MAGIC = b"\x28\xb5\x2f\xfd"
_HEADER_BYTES = 18
_ABSENT = 2**64 - 1
_CHECKSUM_BYTES = 4


def check_chunks(folder: Path, layout: Layout) -> None:
    """Every chunk that holds samples is there and has the size that the metadata declare.

    Args:
        folder: of the array.
        layout: as its metadata tell.

    Raises:
        InputError: names the file and what is wrong with it.
    """
    for index, name in enumerate(layout.files()):
        rows = min(layout.rows_of_file, layout.shape[0] - index * layout.rows_of_file)
        path = folder / name
        with path.open("rb") as file:
            for start, size in _chunks(path, file, layout, rows):
                file.seek(start)
                content = _content_size(file.read(min(size, _HEADER_BYTES)))
                if content != layout.chunk_bytes:
                    raise InputError(
                        f"{path}: a chunk declares {content} bytes, it must be"
                        f" {layout.chunk_bytes}; the file is damaged or hostile"
                    )


def _chunks(path: Path, file: BinaryIO, layout: Layout, rows: int) -> list[tuple[int, int]]:
    """Start and size of the chunks of a file that hold its first `rows` rows."""
    stored = file.seek(0, os.SEEK_END)
    if not layout.sharded:
        return [(0, stored)]
    count = layout.rows_of_file // layout.rows_of_chunk
    index_bytes = 16 * count + _CHECKSUM_BYTES
    if stored < index_bytes:
        raise InputError(f"{path}: {stored} bytes are too few for the index of a shard; truncated")
    file.seek(-index_bytes, os.SEEK_END)
    index = np.frombuffer(file.read(16 * count), "<u8").reshape(count, 2)
    needed = index[: -(-rows // layout.rows_of_chunk)]
    if (needed == _ABSENT).any():
        raise InputError(f"{path}: a chunk is missing in the shard; fetch or make it again")
    chunks = [(int(start), int(size)) for start, size in needed]
    if any(start + size > stored - index_bytes for start, size in chunks):
        raise InputError(f"{path}: the index points outside of the shard; damaged or hostile")
    return chunks


def _content_size(header: bytes) -> int | None:
    """Size of what a zstd frame decompresses to; None where it does not say or is no frame."""
    if len(header) < 6 or header[:4] != _MAGIC:
        return None
    descriptor = header[4]
    single_segment = bool(descriptor & 0x20)
    field = {0: 1 if single_segment else 0, 1: 2, 2: 4, 3: 8}[descriptor >> 6]
    start = 5 + (not single_segment) + (0, 1, 2, 4)[descriptor & 3]
    value = header[start : start + field]
    if field == 0 or len(value) < field:
        return None
    return int.from_bytes(value, "little") + (256 if field == 2 else 0)
