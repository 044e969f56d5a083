"""Whole-batch augmentation: one resampling for all images, on whatever device they are."""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

_MAX_LOG_RATIO = math.log(4 / 3)  # the aspect ratios of Inception's random resized crop


def random_resized_crop(
    images: Tensor, *, min_scale: float, flip: bool, generator: Generator
) -> Tensor:
    """Crop a random part of every image, flip half of them, and resize back to H x W.

    Args:
        images: (N, C, H, W).
        min_scale: smallest kept share of the area, in (0, 1]; the share is uniform in
            [min_scale, 1] and the aspect ratio log-uniform in [3/4, 4/3], as far as it fits.
        flip: mirror each image left to right with probability 1/2.
        generator: on the CPU, so that the crops do not depend on the device.

    Returns:
        (N, C, H, W), bilinear, differentiable in `images`.
    """
    n = images.shape[0]
    area, log_ratio, x, y, coin = torch.rand(5, n, generator=generator)
    area = min_scale + (1 - min_scale) * area
    # A large crop must be nearly as square as the image to fit into it.
    limit = (-area.log()).clamp(max=_MAX_LOG_RATIO)
    half_ratio = ((2 * log_ratio - 1) * limit / 2).exp()
    width, height = area.sqrt() * half_ratio, area.sqrt() / half_ratio

    # affine_grid maps output coordinates in [-1, 1] to input coordinates in [-1, 1].
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = torch.where(coin < 0.5, -width, width) if flip else width
    theta[:, 1, 1] = height
    theta[:, 0, 2] = (2 * x - 1) * (1 - width)
    theta[:, 1, 2] = (2 * y - 1) * (1 - height)
    grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid.to(images.dtype), padding_mode="border", align_corners=False)
