"""Pixels as they are stored: floats, or codes of 8 bits with a scale and an offset for each channel
of each image.

    pixel = scale * code + offset

The codes of a channel span its own minimum and maximum, so that an outlier costs only the channel
that holds it. A bank stays in this form while it is used, a quarter of what floats take, and each
batch is decoded when it is taken. The product and the sum are rounded one after the other, in
float32, so that every device and every reader gets the same pixels to the bit.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hast.config.bank import Dtype
from hast.errors import InputError

_LEVELS = 255
Stored = tuple[NDArray[Any], NDArray[np.float32]]  # as `encode` returns them


def encode(images: NDArray[np.float32], dtype: Dtype) -> Stored:
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


def decode(stored: Tensor | NDArray[Any], affine: Tensor | NDArray[Any]) -> Tensor:
    """Normalized pixels (N, C, H, W), float32, of what `encode` returned."""
    codes, scale_and_offset = torch.as_tensor(stored), torch.as_tensor(affine)
    if codes.dtype != torch.uint8:
        return codes.float()
    scale, offset = scale_and_offset[..., None, None].unbind(2)
    return codes.float().mul_(scale).add_(offset)


def as_stored(images: Tensor, dtype: Dtype) -> Tensor:
    """Images (N, C, H, W) as they come back from a bank of this type: the ones to measure."""
    return decode(*encode(images.numpy(), dtype))


def identity_map(samples: int, channels: int) -> NDArray[np.float32]:
    """The affine map (N, C, 2) of pixels that are stored as they are."""
    return np.tile(np.array([1, 0], np.float32), (samples, channels, 1))


def slices(samples: int, size: int) -> list[slice]:
    """Parts of `size` samples, the last one perhaps smaller."""
    return [slice(start, min(start + size, samples)) for start in range(0, samples, size)]


class Pixels:
    """Images (N, C, H, W) as they are stored. What is taken, `pixels[index]`, is decoded: float32,
    normalized, where the codes are. Any index of the first dimension of a tensor will do."""

    def __init__(self, stored: Tensor | Sequence[NDArray[Any]], affine: Tensor) -> None:
        """
        Args:
            stored: as `encode` returns it, one tensor, or mapped files (n, C, H, W) of equal length
                but the last one.
            affine: (N, C, 2) of scale and offset, where `stored` is.
        """
        self._stored, self._affine = stored, affine
        self._rows = torch.arange(len(affine), device=affine.device)  # takes any index of a tensor
        self.shape = torch.Size([len(affine), *stored[0].shape[-3:]])

    def __len__(self) -> int:
        return len(self._affine)

    @property
    def device(self) -> torch.device:
        return self._affine.device

    @property
    def nbytes(self) -> int:
        """As they are stored."""
        return sum(part.nbytes for part in self._stored)

    def __getitem__(self, index: Any) -> Tensor:
        rows = self._rows[index]
        images = decode(*self.stored(rows.reshape(-1)))
        return images if rows.ndim else images[0]

    def stored(self, rows: Any) -> tuple[Tensor, Tensor]:
        """Some samples as `encode` returned them: (n, C, H, W) and their affine map (n, C, 2)."""
        return self._codes(self._rows[rows]), self._affine[rows]

    def split(self, size: int) -> Iterator[Tensor]:
        """Batches in order, each decoded when its turn comes."""
        return (self[part] for part in slices(len(self), size))

    def to(self, device: torch.device) -> "Pixels":
        """A copy on `device`, still as it is stored."""
        return Pixels(self._codes(self._rows).to(device), self._affine.to(device))

    def _codes(self, rows: Tensor) -> Tensor:
        """Stored pixels of some samples, (n, C, H, W)."""
        if isinstance(self._stored, Tensor):
            return self._stored[rows]
        size = len(self._stored[0])
        codes = np.empty((len(rows), *self.shape[1:]), self._stored[0].dtype)
        file, inside = (rows // size).numpy(), (rows % size).numpy()
        for number in np.unique(file):
            codes[file == number] = self._stored[number][inside[file == number]]
        return torch.from_numpy(codes)
