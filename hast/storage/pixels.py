"""Pixels as they are stored: floats, or codes of 8 bits with a scale and an offset for each channel
of each image.

    pixel = scale * code + offset

The codes of a channel span its own minimum and maximum, so that an outlier costs only the channel
that holds it.
"""

import numpy as np
from numpy.typing import NDArray

from hast.bank import Dtype
from hast.errors import InputError

_LEVELS = 255


def encode(
    images: NDArray[np.float32], dtype: Dtype
) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
    """Store images (N, C, H, W) as `dtype`.

    Returns:
        The stored pixels (N, C, H, W) and their affine map (N, C, 2) of scale and offset, which is
        1 and 0 for floats.

    Raises:
        InputError: a pixel is not finite, or too large for the type.
    """
    if not np.isfinite(images).all():
        raise InputError("images must be finite but hold NaN or infinity")
    identity = identity_map(*images.shape[:2])
    if dtype == "float32":
        return images, identity
    if dtype == "float16":
        if np.abs(images).max(initial=0) > np.finfo(np.float16).max:
            raise InputError("images hold pixels beyond 65504, too large for float16; use float32")
        return images.astype(np.float16), identity
    low, high = images.min(axis=(2, 3)), images.max(axis=(2, 3))
    scale = (high / _LEVELS - low / _LEVELS).astype(np.float32)  # high - low might overflow
    step = np.where(scale > 0, scale, 1)  # a channel of one value has codes of zero
    codes = np.rint((images - low[..., None, None]) / step[..., None, None])
    return codes.clip(0, _LEVELS).astype(np.uint8), np.stack([scale, low], axis=-1)


def as_stored(images: NDArray[np.float32], dtype: Dtype) -> NDArray[np.float32]:
    """Images (N, C, H, W) as they come back from a bank of this type: the ones to measure."""
    return decode(*encode(images, dtype))


def identity_map(samples: int, channels: int) -> NDArray[np.float32]:
    """The affine map (N, C, 2) of pixels that are stored as they are."""
    return np.broadcast_to(np.array([1, 0], np.float32), (samples, channels, 2))


def decode(stored: NDArray[np.generic], affine: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normalized pixels (N, C, H, W) of what `encode` returned."""
    images = stored.astype(np.float32)
    if stored.dtype == np.uint8:
        images *= affine[..., 0, None, None]
        images += affine[..., 1, None, None]
    return images
