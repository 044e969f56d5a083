"""What reads ONNX files, imported when it is needed: none of it is always installed."""

from collections.abc import Callable
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


def open_in(program: str, model: Path | bytes) -> Callable[[Any], list[Any]]:
    """What computes an ONNX file on the CPU: all its outputs, of images as it takes them.

    Args:
        program: `onnxruntime`, with its default optimizations; `onnxruntime without optimizations`;
            `openvino`; or `onnx reference`, ONNX's own evaluator: slow, and the standard itself.
        model: the file, or, for all but `openvino`, its content.

    Raises:
        InputError: a package is missing.
    """
    source = model if isinstance(model, bytes) else str(model)
    if program == "openvino":
        hints = {"PERFORMANCE_HINT": "LATENCY"}
        compiled = require_openvino().Core().compile_model(source, "CPU", hints)
        return lambda images: [*compiled({"images": images}).values()]
    require_onnx()
    if program == "onnx reference":
        session = import_module("onnx.reference").ReferenceEvaluator(source)
    else:
        runtime = import_module("onnxruntime")
        options, levels = runtime.SessionOptions(), runtime.GraphOptimizationLevel
        options.log_severity_level = 3
        if program != "onnxruntime":
            options.graph_optimization_level = levels.ORT_DISABLE_ALL
        session = runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})
