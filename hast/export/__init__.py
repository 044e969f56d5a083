"""A student for the world outside Python: ONNX, torch.export, and how well each agrees with it."""

from typing import Literal, get_args

Target = Literal["generic", "onnxruntime-cpu"]
TARGETS: tuple[Target, ...] = get_args(Target)
