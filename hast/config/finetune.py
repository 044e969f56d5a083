"""Fine-tuning, the section `quantize`."""

from typing import Literal

from pydantic import Field, field_validator

from hast.config.section import Section


class FinetuneConfig(Section):
    """The defaults are the paper's CIFAR-10 setting."""

    steps: int = Field(default=29400, ge=0)
    """Steps of the optimizer; with 0 the student stays as it was calibrated."""
    batch_size: int = Field(default=64, ge=1)
    """Images in a step."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with Nesterov momentum, or AdamW."""
    schedule: Literal["milestones", "cosine"] = "milestones"
    """Of the learning rate: a tenth at each milestone, or a warm-up and a cosine to zero."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """Of the optimizer, before the schedule lowers it."""
    milestones: tuple[int, ...] = (4000, 8000, 12000)
    """Steps at which the rate drops to a tenth."""
    scale_rate_factor: float = Field(default=1.0, gt=0)
    """On the rate of learned scales."""
    momentum: float = Field(default=0.9, gt=0, lt=1)
    """Nesterov, of sgd."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Of the optimizer."""
    temperature: float = Field(default=20.0, gt=0)
    """T, of the distillation."""
    distillation_weight: float = Field(default=20.0, ge=0)
    """α, of the distillation."""
    alignment_weight: float = Field(default=1000.0, ge=0)
    """λ, of the feature alignment; 0 switches it off."""
    alignment_modules: tuple[str, ...] = ()
    """Names or patterns of modules; empty finds the residual bodies."""
    promotion_step: float = Field(default=0.01, ge=0)
    """ε of the difficulty promotion, in normalized pixels; 0 switches it off."""
    min_crop_scale: float = Field(default=0.5, gt=0, le=1)
    """Smallest share of the area that a random crop keeps."""
    flip: bool = True
    """Mirror half of the images left to right."""
    sampling: Literal["uniform", "difficulty"] = "uniform"
    """Shuffled epochs, or draws by difficulty under the student."""
    held_back: float = Field(default=0.1, ge=0, le=0.5)
    """Share of the bank that is never trained on; agreement there says whether training helps."""
    keep: Literal["last", "best"] = "last"
    """The last step (the paper), or, where the last point agrees less than the start did by more
    than the margin, the best point. No test image has a say in it."""
    seed: int = 0
    """Of all random numbers of the stage."""

    @property
    def forward_passes(self) -> int:
        """A backward pass costs two: student and teacher forward and backward on the clean image,
        student forward and backward and teacher forward on the promoted one."""
        return 10 * self.steps * self.batch_size

    def trained_on(self, samples: int) -> int:
        """How many of a bank's samples are trained on, the first ones."""
        return samples - int(samples * self.held_back)

    @field_validator("milestones")
    @classmethod
    def _ascend(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if list(steps) != sorted(set(steps)) or any(step < 1 for step in steps):
            raise ValueError("milestones must be ascending step numbers from 1")
        return steps
