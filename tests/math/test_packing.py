"""Codes as bytes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hast.math.packing import pack, packed_bytes, unpack


@given(st.integers(1, 8), st.lists(st.integers(0, 255), max_size=70))
def test_what_is_packed_comes_back_and_takes_its_true_width(bits, values):
    codes = torch.tensor([v % (1 << bits) for v in values], dtype=torch.uint8)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert len(packed) == packed_bytes(len(codes), bits) == -(-len(codes) * bits // 8)
    assert torch.equal(unpack(packed, bits, len(codes)), codes)


def test_the_lowest_bit_of_the_first_code_comes_first():
    # 5 = 101, 3 = 011, 7 = 111 from the lowest bit on: 1 0 1 | 1 1 0 | 1 1 . 1
    assert pack(torch.tensor([5, 3, 7], dtype=torch.uint8), 3).tolist() == [0b11011101, 0b1]


def test_a_stream_of_another_length_is_refused():
    with pytest.raises(ValueError, match="5 codes of 3 bits take 2 bytes, got 3"):
        unpack(torch.zeros(3, dtype=torch.uint8), 3, 5)
