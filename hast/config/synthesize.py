"""Synthesis of hard samples."""

from typing import Literal

from pydantic import Field, model_validator

from hast.config.section import Section


class SynthesisConfig(Section):
    """The defaults are the paper's CIFAR setting."""

    samples: int = Field(default=5120, ge=2)
    """Number of images."""
    batch_size: int = Field(default=256, ge=2)
    """Images that are optimised together: BNS needs the statistics of a batch."""
    steps: int = Field(default=1000, ge=1)
    """Steps of the optimizer for each batch."""
    learning_rate: float = Field(default=0.5, gt=0)
    """Of the optimizer, at the start."""
    min_learning_rate: float = Field(default=1e-4, ge=0)
    """Where the learning rate stops falling."""
    patience: int = Field(default=50, ge=0)
    """Steps on a plateau before the rate drops."""
    bns: Literal["absolute", "relative"] = "absolute"
    """How far statistics are from BatchNorm's: in the units of the layer (the paper), or in each
    channel's own standard deviations, which serves networks of any scale."""
    hard_weight: float = Field(default=10.0, ge=0)
    """β, of L_hard beside L_BNS; it belongs to `bns`."""
    gamma: float = Field(default=2.0, ge=0)
    """γ, the power of difficulty that weighs a sample; 0 is plain cross-entropy."""
    augment_probability: float = Field(default=0.0, ge=0, le=1)
    """Of a step to see crops and mirrored images."""
    min_crop_scale: float = Field(default=0.4, gt=0, le=1)
    """Smallest share of the area that a random crop keeps."""
    init: Literal["gaussian", "pink", "generator"] = "gaussian"
    """What the pixels start from: Gaussian noise, noise with a photograph's spectrum, or images of
    the generator."""
    space: Literal["pixels", "spectrum"] = "pixels"
    """What the optimizer moves: pixels, or white noise that is seen through a photograph's spectrum
    and contrast, which needs `init: pink` and a smaller `learning_rate`."""
    seed: int = 0
    """Of all random numbers of the stage."""

    @model_validator(mode="after")
    def _spectrum_starts_pink(self) -> "SynthesisConfig":
        if self.space == "spectrum" and self.init != "pink":
            raise ValueError(
                f"space 'spectrum' starts from pink noise, got init {self.init!r}; set init: pink"
            )
        return self

    @property
    def forward_passes(self) -> int:
        """A backward pass costs two."""
        return 3 * self.steps * self.samples
