"""Whole-batch augmentation: one resampling for all images, on whatever device they are.

A crop that is resized back is linear in the image and separable: new = R @ old @ C^T, where each
row of R and C holds the two weights of bilinear interpolation. So a batch is two products of small
matrices, differentiable for synthesis, and the same bits come out every time.
"""

import math

import torch
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

    span = torch.where(coin < 0.5, -width, width) if flip else width
    columns = _sampling(span, (2 * x - 1) * (1 - width), images.shape[3]).to(images)
    rows = _sampling(height, (2 * y - 1) * (1 - height), images.shape[2]).to(images)
    return torch.einsum("nih,nchw,njw->ncij", rows, images, columns)


def _sampling(span: Tensor, centre: Tensor, size: int) -> Tensor:
    """Weights (N, size, size) that make `size` new pixels of the old ones, bilinear along one
    dimension, where [centre - span, centre + span] of [-1, 1] is seen.

    Two products with such matrices are what `grid_sample` computes, but its gradient is summed in
    no order on a GPU: the same seed would give other images.
    """
    pixels = torch.arange(size)
    wanted = centre[:, None] + span[:, None] * ((2 * pixels + 1) / size - 1)
    position = ((wanted + 1) * size / 2 - 0.5).clamp(0, size - 1)  # the border goes on outside
    return (1 - (position[:, :, None] - pixels).abs()).clamp(min=0)
