"""Codes of a few bits as bytes, without gaps at any width.

Code i takes the bits i*b ... (i+1)*b - 1 of a stream of bits, the lowest first; bit k of the stream
is bit k % 8 of byte k // 8. The last byte is filled with zeros.
"""

import torch
from torch import Tensor

_BYTE = 8


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` codes of `bits` bits take."""
    return -(-count * bits // _BYTE)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes in [0, 2**bits), uint8 of any shape, as a stream of bytes, uint8 (packed_bytes,)."""
    stream = _bits_of(codes.flatten(), bits).flatten()
    missing = -len(stream) % _BYTE
    stream = torch.cat([stream, stream.new_zeros(missing)]).view(-1, _BYTE)
    return _from_bits(stream)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes of a stream of bytes, uint8 (count,).

    Raises:
        ValueError: the stream is shorter or longer than that many codes.
    """
    if len(packed) != packed_bytes(count, bits):
        needed = packed_bytes(count, bits)
        raise ValueError(f"{count} codes of {bits} bits take {needed} bytes, got {len(packed)}")
    stream = _bits_of(packed, _BYTE).flatten()[: count * bits]
    return _from_bits(stream.view(count, bits))


def _bits_of(values: Tensor, bits: int) -> Tensor:
    """(N,) -> (N, bits) of zeros and ones, the lowest bit first."""
    return values.unsqueeze(1) >> torch.arange(bits, dtype=torch.uint8) & 1


def _from_bits(bits: Tensor) -> Tensor:
    """(N, bits) -> (N,)."""
    powers = torch.tensor([1 << i for i in range(bits.shape[1])], dtype=torch.uint8)
    return (bits * powers).sum(1, dtype=torch.uint8)
