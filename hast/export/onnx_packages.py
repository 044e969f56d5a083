"""What reads ONNX files, imported when it is needed: none of it is always installed."""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from hast.errors import needs


def require_onnx(*, otherwise: str = "") -> ModuleType:
    """The package `onnx`.

    Args:
        otherwise: what else than installing it would help.

    Raises:
        InputError: a package of the extra is missing.
    """
    with needs("'hast[onnx]'", otherwise=otherwise):
        for package in ("onnxscript", "onnxruntime"):
            import_module(package)
        return import_module("onnx")


def require_openvino() -> ModuleType:
    """The package `openvino`.

    Raises:
        InputError: it is missing.
    """
    with needs("openvino", otherwise="take onnx out of export.formats"):
        return import_module("openvino")


def open_session(model: Path | bytes, *, optimize: bool = True) -> Any:
    """An ONNX Runtime session on the CPU, of a file or of its content."""
    require_onnx()
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    levels = runtime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    return runtime.InferenceSession(
        model if isinstance(model, bytes) else str(model),
        options,
        providers=["CPUExecutionProvider"],
    )
