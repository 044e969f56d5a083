"""What a classifier expects and answers."""

from typing import Annotated

from pydantic import Field, model_validator

from hast.config import Section

Positive = Annotated[int, Field(gt=0)]


class ModelSpec(Section):
    """The contract of an image classifier.

    Attributes:
        input_shape: (C, H, W) of one image.
        num_classes: K, the number of logits.
        mean, std: per channel, in pixels of [0, 1]; normalized pixel = (pixel - mean) / std.
        class_names: K names, or empty where they are not known.
    """

    input_shape: tuple[Positive, Positive, Positive]
    num_classes: int = Field(ge=2)
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    class_names: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _lengths_agree(self) -> "ModelSpec":
        channels = self.input_shape[0]
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(f"mean and std must have one value for each of {channels} channels")
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(f"class_names must be empty or name all {self.num_classes} classes")
        return self
