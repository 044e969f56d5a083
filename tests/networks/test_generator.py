import pytest
import torch

from hast.config.spec import ModelSpec
from hast.networks.generator import Generator


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 30, 21)])
def test_images_have_the_asked_shape_and_are_normalized(shape):
    channels = shape[0]
    spec = ModelSpec(input_shape=shape, num_classes=4, mean=(0,) * channels, std=(1,) * channels)
    generator = Generator(spec, latent_dim=10, width=16)
    random = torch.Generator().manual_seed(0)
    images = generator.sample(torch.arange(64) % 4, random)
    assert images.shape == (64, *shape)
    assert images.mean().abs() < 0.1
    assert 0.9 < images.std() < 1.1
