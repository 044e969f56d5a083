"""Noise that resembles photographs before any optimisation.

The amplitude spectrum of natural images falls as 1 / frequency, and their channels mostly move
together, for light changes faster than colour. White noise has as much of every frequency; the
first layers' statistics are then far off, and the optimiser spends its steps on making pixels
smooth. From pink noise the BatchNorm loss of a ResNet-20 ends at 0.013 in place of 0.02 after the
same 400 steps (docs/results.md), with nothing taken from data.

Where an image starts is half of it. An optimizer of pixels changes all frequencies alike, Adam even
more so, and BatchNorm's statistics say little about fine detail: what it adds there stays as noise.
So the noise can be what is optimised, and the image how it looks through the spectrum: a step then
changes an image where photographs vary. This is preconditioning, and takes no image away.

Networks differ in how they normalize: pixels of a photograph vary by about 1 where mean and std are
those of the training images, and by half of that where they map [0, 255] to [-1, 1].
"""

import math

import torch
from torch import Generator, Tensor

# Mean and standard deviation of a photograph's pixels, which lie in [0, 1].
BRIGHTNESS, CONTRAST = 0.5, 0.25
_SHARED = 0.64  # of a pixel's variance: brightness, which all channels have in common


def pink_noise(images: int, shape: tuple[int, int, int], generator: Generator) -> Tensor:
    """Gaussian images whose amplitude falls as 1 / frequency and whose channels move together.

    Args:
        images: N.
        shape: (C, H, W) of one image.
        generator: on the CPU.

    Returns:
        (N, C, H, W), mean zero; the variance over all of it is one, of single images it differs.

    Source: Field, 1987, Relations between the statistics of natural images and the response
    properties of cortical cells.
    """
    pink = _filtered(white_noise(images, shape, generator))
    brightness, colour = (part / part.std(correction=0) for part in (pink[:, :1], pink[:, 1:]))
    return _mixed(brightness, colour)


def white_noise(images: int, shape: tuple[int, int, int], generator: Generator) -> Tensor:
    """What `photograph_like` takes: (N, 1 + C, H, W), brightness and then the channels' colour."""
    channels, height, width = shape
    parts = (torch.randn(images, n, height, width, generator=generator) for n in (1, channels))
    return torch.cat([*parts], 1)


def _filtered(white: Tensor) -> Tensor:
    """Noise (..., H, W) with its amplitudes divided by their frequencies. Linear; what is white and
    of variance one keeps that variance."""
    height, width = white.shape[-2:]
    fft, where = torch.fft, white.device
    rows, columns = fft.fftfreq(height, device=where)[:, None], fft.fftfreq(width, device=where)
    # The mean has no frequency; it gets the amplitude of the slowest wave.
    amplitude = 1 / torch.hypot(rows, columns).clamp(min=1 / max(height, width))
    amplitude = amplitude / amplitude.square().mean().sqrt()
    seen = fft.rfft2(white) * amplitude[:, : width // 2 + 1]
    pink: Tensor = fft.irfft2(seen, s=(height, width))
    return pink


def _mixed(brightness: Tensor, colour: Tensor) -> Tensor:
    return math.sqrt(_SHARED) * brightness + math.sqrt(1 - _SHARED) * colour


def photograph_like(white: Tensor, std: Tensor) -> Tensor:
    """White noise seen through a photograph's spectrum, with its contrast. Linear.

    Args:
        white: (N, 1 + C, H, W), see `white_noise`.
        std: (C, 1, 1), by which pixels of [0, 1] are divided.

    Returns:
        (N, C, H, W), normalized pixels.
    """
    # Mixed first: a plane less to filter.
    return _filtered(CONTRAST / std * _mixed(white[:, :1], white[:, 1:]))
