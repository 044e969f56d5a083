"""Pixels and what a network takes."""

import torch

from hast.config.spec import ModelSpec

SPEC = ModelSpec(input_shape=(1, 1, 3), num_classes=2, mean=(0.5,), std=(0.25,))


def test_pixels_are_brought_back_and_clipped():
    images = torch.tensor([[[[-1.0, 0.0, 9.0]]]])
    assert SPEC.denormalize(images).flatten().tolist() == [0.25, 0.5, 1.0]
    pixels = torch.tensor([[[[0.25, 0.5, 1.0]]]])
    assert SPEC.normalize(pixels).flatten().tolist() == [-1.0, 0.0, 2.0]
    assert torch.equal(SPEC.denormalize(SPEC.normalize(pixels)), pixels)
