"""Formats of the product."""

from typing import Any, Literal

from pydantic import Field, field_validator

from hast.config.section import Section

Inputs = Literal["normalized", "pixels", "bytes"]
Format = Literal["onnx", "program"]


class ExportConfig(Section):
    """What leaves the project beside the packed checkpoint, and how well it must agree."""

    formats: tuple[Format, ...] = ("onnx", "program")
    """`onnx`, for the runtime that `layers.target` names; `program`, of `torch.export`."""
    fold_batch_norm: bool = False
    """Let scales and biases take in the BatchNorm layers of all formats."""
    inputs: Inputs = "normalized"
    """What the formats take: `normalized` images, `pixels` in [0, 1], or `bytes`."""
    samples: int = Field(default=512, ge=1)
    """Images of the bank, and of the test split, on which answers are compared."""
    reference_samples: int = Field(default=64, ge=1)
    """How many of them ONNX's own evaluator sees, which is slow."""
    min_agreement: float = Field(default=0.97, ge=0, le=1)
    """Least share of equal first answers, in [0, 1], of every program."""
    max_mean_difference: float = Field(default=0.1, ge=0)
    """Largest mean difference of logits, in standard deviations of them."""

    @field_validator("formats", mode="before")
    @classmethod
    def _has_no_target(cls, formats: Any) -> Any:
        if isinstance(formats, list | tuple) and "onnxruntime-cpu" in formats:
            raise ValueError(
                "'onnxruntime-cpu' is no format any more; write onnx, and `target: onnxruntime`"
                " under layers"
            )
        return formats
