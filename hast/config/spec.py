"""What a classifier expects and answers."""

from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor

from hast.config.section import Section, parse_section
from hast.errors import InputError
from hast.math.noise import BRIGHTNESS, CONTRAST

Positive = Annotated[int, Field(gt=0)]
Shape = tuple[Positive, Positive, Positive]
Std = tuple[Annotated[float, Field(gt=0)], ...]


_USUAL = 0.02, 0.6  # what pixels of [0, 1] are divided by where somebody normalizes them


class ModelSpec(Section):
    """The contract of an image classifier."""

    input_shape: Shape
    """(C, H, W) of one image."""
    num_classes: int = Field(ge=2)
    """K, the number of logits."""
    mean: tuple[float, ...]
    """Per channel, in pixels of [0, 1]; normalized pixel = (pixel - mean) / std."""
    std: Std
    """Per channel, in pixels of [0, 1]; normalized pixel = (pixel - mean) / std."""
    class_names: tuple[str, ...] = ()
    """K names, or empty where they are not known."""

    @model_validator(mode="after")
    def _lengths_agree(self) -> "ModelSpec":
        channels = self.input_shape[0]
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(f"mean and std must have one value for each of {channels} channels")
        if max(map(abs, self.mean)) > 1 or max(self.std) > 1:
            raise ValueError(
                "mean and std are of pixels in [0, 1], so none is above 1; divide those of 0..255"
                " by 255"
            )
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(f"class_names must be empty or name all {self.num_classes} classes")
        return self

    def channels(self, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """Mean and std as tensors (C, 1, 1)."""
        mean, std = (torch.tensor(v, device=device).view(-1, 1, 1) for v in (self.mean, self.std))
        return mean, std

    def photograph(self, device: torch.device | None = None) -> tuple[Tensor, Tensor] | None:
        """Mean and deviation of a photograph's pixels in the network's units, each (C, 1, 1), where
        those are far from 0 and 1: in a network that is given pixels and normalizes them itself.

        Noise, rates and steps are of normalized pixels. None where pixels are, by about the
        deviation of a photograph.
        """
        low, high = _USUAL
        if all(low <= value <= high for value in self.std):
            return None
        mean, std = self.channels(device)
        return (BRIGHTNESS - mean) / std, CONTRAST / std

    def normalize(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1], (N, C, H, W), to what the network takes."""
        mean, std = self.channels(pixels.device)
        return (pixels - mean).div_(std)

    def denormalize(self, images: Tensor) -> Tensor:
        """Normalized images (N, C, H, W) back to pixels in [0, 1]; what lies outside is clipped."""
        mean, std = self.channels(images.device)
        return (images * std + mean).clamp(0, 1)


class PartialSpec(Section):
    """A spec of which some parts are not known (None)."""

    input_shape: Shape | None = None
    """[C, H, W] of one image, in pixels."""
    num_classes: int | None = Field(default=None, ge=2)
    """Number of logits."""
    mean: tuple[float, ...] | None = None
    """Per channel, in pixels of [0, 1]."""
    std: Std | None = None
    """Per channel, in pixels of [0, 1]; normalized pixel = (pixel − mean) / std."""
    class_names: tuple[str, ...] | None = None
    """One for each class, in the order of the logits."""


def merge_specs(known: PartialSpec, given: PartialSpec) -> ModelSpec:
    """Complete what a source knows with what the user gives.

    Raises:
        InputError: the two contradict each other, a part is missing, or the parts do not fit.
    """
    values = known.model_dump(exclude_none=True)
    for name, value in given.model_dump(exclude_none=True).items():
        if values.setdefault(name, value) != value:
            raise InputError(f"{name} is {value} but the source says {values[name]}; remove it")
    missing = [n for n in ("input_shape", "mean", "std", "num_classes") if n not in values]
    if missing:
        raise InputError(f"{missing[0]} must be given, the source does not know it")
    return parse_section(values, ModelSpec, name="spec")
