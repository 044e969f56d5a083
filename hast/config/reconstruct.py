"""Reconstruction of a student, block by block."""

from pydantic import Field

from hast.config.section import Section


class ReconstructionConfig(Section):
    """How each block is brought to answer as the teacher's."""

    steps: int = Field(default=0, ge=0)
    """Of the optimizer for each block; 0 leaves the student as it was calibrated (the paper)."""
    samples: int = Field(default=1024, ge=1)
    """Images of the bank it is done on, at most."""
    batch_size: int = Field(default=32, ge=1)
    """Images in a step."""
    rounding_rate: float = Field(default=2e-2, gt=0)
    """Learning rate of the rounding of weights."""
    scale_rate: float = Field(default=1e-3, gt=0)
    """Learning rate of scales, a relative change."""
    bias_rate: float = Field(default=0.0, ge=0)
    """Learning rate of biases, in norms of a channel's weights; 0 leaves them as they are."""
    resize: float = Field(default=1.0, gt=0, le=1)
    """Share of their side that images are resized to, smoothly; for networks that take any size."""
    drop_probability: float = Field(default=0.5, ge=0, le=1)
    """Of an activation to stay unquantized in a step (QDrop)."""
    seed: int = 0
    """Of all random numbers of the stage."""

    @property
    def forward_passes(self) -> int:
        """A backward pass costs two; all blocks together are the network once."""
        return round(3 * self.steps * self.batch_size * self.resize**2)
