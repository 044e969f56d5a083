"""Images for banks of 8 bits."""

import torch
from torch import Tensor

from hast.bank.pixels import as_stored


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Gaussian noise (N, C, H, W), rounded to what 8 bits hold."""
    images = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return as_stored(images, "uint8")
