"""How activation ranges are found."""

from typing import Literal

from pydantic import Field

from hast.config.section import Section


class CalibrationConfig(Section):
    """How the activation ranges are found."""

    images: Literal["generator", "bank"] = "generator"
    """Whose activations are observed: fresh images of the generator (the paper) or those that
    fine-tuning will see."""
    correct_batch_norm: bool = False
    """Let the student's BatchNorm layers expect what quantization made of their inputs."""
    batches: int = Field(default=100, ge=1)
    """Batches of images to observe."""
    batch_size: int = Field(default=64, ge=1)
    """Images in a step."""
    range_momentum: float = Field(default=0.9, ge=0, lt=1)
    """Weight of the average so far."""
    seed: int = 0
    """Of all random numbers of the stage."""

    @property
    def records(self) -> int:
        """Batches that `calibrate` looks at."""
        return self.batches * (2 if self.correct_batch_norm else 1)
