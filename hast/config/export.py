"""Formats of the product."""

from typing import Literal

from pydantic import Field

from hast.config.section import Section

Inputs = Literal["normalized", "pixels", "bytes"]
Format = Literal["onnx", "onnxruntime-cpu", "program"]
Target = Literal["generic", "onnxruntime-cpu"]  # of an ONNX graph


class ExportConfig(Section):
    """What leaves the project beside the packed checkpoint, and how well it must agree."""

    formats: tuple[Format, ...] = ("onnx", "program")
    """`onnx`, readable by any runtime; `onnxruntime-cpu`, the same in bytes and with BatchNorm
    folded, for its integer kernels; `program`, of `torch.export`."""
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
