import pytest
import torch

from hast.math.noise import photograph_like, pink_noise, white_noise


def noise(images=200, shape=(3, 32, 32), seed=0):
    return pink_noise(images, shape, torch.Generator().manual_seed(seed))


def test_the_same_seed_gives_the_same_images_and_another_seed_others():
    assert torch.equal(noise(2, seed=1), noise(2, seed=1))
    assert not torch.equal(noise(2, seed=1), noise(2, seed=2))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (3, 15, 20)])
def test_the_variance_is_one_and_images_differ_in_brightness(shape):
    images = noise(shape=shape)
    assert images.shape == (200, *shape)
    assert images.var() == pytest.approx(1.0, abs=0.05)
    assert images.mean((1, 2, 3)).std() > 0.1  # 0.02 for white noise of 32 x 32


def test_twice_the_frequency_has_half_the_amplitude():
    amplitude = torch.fft.fft2(noise()).abs().square().mean((0, 1)).sqrt()
    assert (amplitude[0, 4] / amplitude[0, 8]).item() == pytest.approx(2.0, rel=0.1)
    assert (amplitude[4, 0] / amplitude[8, 0]).item() == pytest.approx(2.0, rel=0.1)


def test_channels_move_together():
    red, green, blue = noise().transpose(0, 1).flatten(1)
    for a, b in ((red, green), (green, blue)):
        assert torch.corrcoef(torch.stack([a, b]))[0, 1] == pytest.approx(0.64, abs=0.05)


def test_white_noise_looks_like_photographs_of_any_normalization():
    white = white_noise(200, (3, 32, 32), torch.Generator().manual_seed(0))
    images = photograph_like(white, torch.tensor([0.25, 0.5, 1.0]).view(3, 1, 1))
    stds = images.transpose(0, 1).flatten(1).std(1)
    assert stds.tolist() == pytest.approx([1.0, 0.5, 0.25], rel=0.05)
    unit = photograph_like(white, torch.full((3, 1, 1), 0.25))
    assert torch.corrcoef(torch.stack([unit.flatten(), noise().flatten()]))[0, 1] > 0.999
    torch.testing.assert_close(photograph_like(2 * white, torch.full((3, 1, 1), 0.25)), 2 * unit)
