"""Training of a built-in teacher."""

from pydantic import Field

from hast.config.section import Section


class TrainingConfig(Section):
    """Ordinary supervised training: SGD with momentum and a one-cycle learning rate."""

    epochs: int = Field(default=40, ge=1)
    """Passes over the training images."""
    batch_size: int = Field(default=64, ge=2)
    """Images in a step."""
    learning_rate: float = Field(default=0.1, gt=0)
    """The peak of the cycle."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Of the optimizer."""
    min_crop_scale: float = Field(default=0.6, gt=0, le=1)
    """Smallest share of the area that a random crop keeps."""
    seed: int = 0
    """Of all random numbers of the stage."""
