"""What reads ONNX files, imported when it is needed: none of it is always installed."""

from collections.abc import Mapping
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


def open_in(program: str, model: Path) -> Any:
    """What computes an ONNX file on the CPU, with ONNX Runtime's `run(outputs, inputs)`.

    Args:
        program: `onnxruntime`, with its default optimizations; `onnxruntime without optimizations`;
            `openvino`; or `onnx reference`, ONNX's own evaluator: slow, and the standard itself.
        model: the file.

    Raises:
        InputError: a package is missing.
    """
    match program:
        case "openvino":
            return _OpenVinoSession(model)
        case "onnx reference":
            require_onnx()
            return import_module("onnx.reference").ReferenceEvaluator(str(model))
        case _:
            return open_session(model, optimize=program == "onnxruntime")


class _OpenVinoSession:
    """An ONNX file in OpenVINO, called as an ONNX Runtime session is."""

    def __init__(self, model: Path) -> None:
        hints = {"PERFORMANCE_HINT": "LATENCY"}
        self._predict = require_openvino().Core().compile_model(str(model), "CPU", hints)

    def run(self, _outputs: None, inputs: Mapping[str, Any]) -> list[Any]:
        return [*self._predict(inputs).values()]


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
