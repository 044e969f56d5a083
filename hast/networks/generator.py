"""Class-conditional image generator in the manner of GDFQ (Xu et al., ECCV 2020)."""

import math

import torch
from torch import Tensor, nn

from hast.config.spec import ModelSpec


class Generator(nn.Module):
    """Label embedding x latent -> linear -> two x2 upsamplings -> tanh -> affine-free BatchNorm.

    The last BatchNorm has no scale and shift: images come out normalized per channel, as the
    teacher's inputs are, or as a photograph's where the teacher normalizes them itself.
    """

    def __init__(self, spec: ModelSpec, latent_dim: int = 100, width: int = 128) -> None:
        """
        Args:
            spec: shape of the images and number of classes.
            latent_dim: length of the noise vector.
            width: channels of the first feature map.
        """
        super().__init__()
        self.shape = channels, self.height, self.width = spec.input_shape
        self.latent_dim, self.photograph = latent_dim, spec.photograph()
        start = (width, math.ceil(self.height / 4), math.ceil(self.width / 4))
        self.embedding = nn.Embedding(spec.num_classes, latent_dim)
        self.project = nn.Linear(latent_dim, math.prod(start))
        self.decode = nn.Sequential(
            nn.Unflatten(1, start),
            nn.BatchNorm2d(width),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width // 2, 3, padding=1),
            nn.BatchNorm2d(width // 2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width // 2, channels, 3, padding=1),
            nn.Tanh(),
            nn.BatchNorm2d(channels, affine=False),
        )

    def forward(self, latent: Tensor, labels: Tensor) -> Tensor:
        """Images (N, C, H, W) from noise (N, latent_dim) and labels (N,)."""
        images: Tensor = self.decode(self.project(self.embedding(labels) * latent))
        images = images[:, :, : self.height, : self.width]
        if self.photograph is None:
            return images
        mean, deviation = (x.to(images.device) for x in self.photograph)
        return images * deviation + mean

    def sample(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Images for `labels`, with noise drawn on the CPU from `generator`."""
        latent = self.noise(len(labels), generator).to(labels.device)
        return self(latent, labels)  # type: ignore[no-any-return]

    def noise(self, samples: int, generator: torch.Generator) -> Tensor:
        """Latent vectors (samples, latent_dim), on the CPU."""
        return torch.randn(samples, self.latent_dim, generator=generator)
