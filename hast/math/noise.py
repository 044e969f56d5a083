"""Noise that resembles photographs before any optimisation.

The amplitude spectrum of natural images falls as 1 / frequency, and their channels mostly move
together, for light changes faster than colour. White noise has as much of every frequency; the
first layers' statistics are then far off, and the optimiser spends its steps on making pixels
smooth. From pink noise the BatchNorm loss of a ResNet-20 ends at 0.013 in place of 0.02 after the
same 400 steps (docs/results.md), with nothing taken from data.
"""

import math

import torch
from torch import Generator, Tensor

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
    channels, height, width = shape
    brightness = _filtered(torch.randn(images, 1, height, width, generator=generator))
    colour = _filtered(torch.randn(images, channels, height, width, generator=generator))
    return math.sqrt(_SHARED) * brightness + math.sqrt(1 - _SHARED) * colour


def _filtered(white: Tensor) -> Tensor:
    """White noise (..., H, W) with its amplitudes divided by their frequencies; variance one."""
    height, width = white.shape[-2:]
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])
    # The mean has no frequency; it gets the amplitude of the slowest wave.
    frequency = frequency.clamp(min=1 / max(height, width))
    pink: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) / frequency, s=(height, width))
    return pink / pink.std(correction=0)
