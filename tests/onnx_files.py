"""ONNX files of students: what they hold, and how near their answers are."""

from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from hast.export.parity import compare, logits_of, predictor

onnx = pytest.importorskip("onnx", reason="onnx is an optional extra")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is an optional extra")
pytest.importorskip("onnxscript", reason="onnxscript is an optional extra")

PLAIN = "onnxruntime without optimizations"


def stored(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file, by name."""
    return {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}


def assert_near(
    student: nn.Module, path: Path, images: Tensor, share: float, *programs: str,
    agreement: float = 0.0,
) -> None:  # fmt: skip
    """Logits differ by less than a share of their spread in each program, on average."""
    expected = logits_of(student, images)
    for program in programs or ("onnxruntime",):
        parity = compare(expected, logits_of(predictor(path, program), images))
        assert parity.mean_difference < share * parity.logit_spread, program
        assert parity.agreement >= agreement, program
