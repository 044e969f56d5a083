import math

import torch
import torch.nn.functional as F

from hast.math.augmentation import random_resized_crop

IMAGES = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).reshape(2, 3, 8, 8)


def crop(seed=0, **changes):
    arguments = {"min_scale": 0.5, "flip": True} | changes
    return random_resized_crop(IMAGES, generator=torch.Generator().manual_seed(seed), **arguments)


def test_crops_keep_at_least_the_asked_share_of_the_area():
    rows, columns = torch.meshgrid(
        torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij"
    )
    views = random_resized_crop(
        torch.stack([rows, columns]).expand(500, 2, 64, 64),
        min_scale=0.6, flip=False, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    height = (views[:, 0, -1, 32] - views[:, 0, 0, 32]) / 2
    width = (views[:, 1, 32, -1] - views[:, 1, 32, 0]) / 2
    assert (height * width).min() > 0.58  # half a pixel is lost at each border
    assert 0.7 < (width / height).min() < 0.8


def test_a_crop_is_what_grid_sample_makes_of_it():
    """With a wide image, so that rows and columns are not mixed up."""
    images = torch.randn(6, 3, 9, 14)
    views = random_resized_crop(
        images, min_scale=0.4, flip=True, generator=torch.Generator().manual_seed(3)
    )
    theta = torch.zeros(6, 2, 3)
    area, log_ratio, x, y, coin = torch.rand(5, 6, generator=torch.Generator().manual_seed(3))
    area = 0.4 + 0.6 * area
    ratio = ((2 * log_ratio - 1) * (-area.log()).clamp(max=math.log(4 / 3)) / 2).exp()
    width, height = area.sqrt() * ratio, area.sqrt() / ratio
    theta[:, 0, 0], theta[:, 1, 1] = torch.where(coin < 0.5, -width, width), height
    theta[:, 0, 2], theta[:, 1, 2] = (2 * x - 1) * (1 - width), (2 * y - 1) * (1 - height)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    expected = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    assert torch.allclose(views, expected, atol=1e-4)
