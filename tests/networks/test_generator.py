import pytest
import torch
from conftest import spec_of

from hast.networks.generator import Generator


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 30, 21)])
def test_images_have_the_asked_shape_and_are_normalized(shape):
    generator = Generator(spec_of(shape, 4), latent_dim=10, width=16)
    random = torch.Generator().manual_seed(0)
    images = generator.sample(torch.arange(64) % 4, random)
    assert images.shape == (64, *shape)
    assert images.mean().abs() < 0.1
    assert 0.9 < images.std() < 1.1
