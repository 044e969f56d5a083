"""Codes of a few bits as bytes, without gaps at any width.

Code i takes the bits i*b ... (i+1)*b - 1 of a stream of bits, the lowest first; bit k of the stream
is bit k % 8 of byte k // 8. The last byte is filled with zeros.
"""

import numpy as np
import torch
from torch import Tensor


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` codes of `bits` bits take."""
    return -(-count * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes in [0, 2**bits), uint8 of any shape, as a stream of bytes, uint8 (packed_bytes,)."""
    stream = np.unpackbits(codes.reshape(-1, 1).numpy(), axis=1, count=bits, bitorder="little")
    return torch.from_numpy(np.packbits(stream, bitorder="little"))


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes of a stream of bytes, uint8 (count,).

    Raises:
        ValueError: the stream is shorter or longer than that many codes.
    """
    if len(packed) != packed_bytes(count, bits):
        needed = packed_bytes(count, bits)
        raise ValueError(f"{count} codes of {bits} bits take {needed} bytes, got {len(packed)}")
    stream = np.unpackbits(packed.numpy(), count=count * bits, bitorder="little")
    codes = np.packbits(stream.reshape(count, bits), axis=1, bitorder="little")
    return torch.from_numpy(codes[:, 0])
