"""HAST: make a trained vision network small without its data."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hast.api import evaluate, quantize, quantize_zero_shot, synthesize, train_generator
    from hast.bank import Bank
    from hast.classifier_source import load_classifier
    from hast.errors import HastError, InputError, NonFiniteLossError
    from hast.export.onnx_graph import export_onnx
    from hast.export.program import export_program
    from hast.networks.coverage import coverage
    from hast.networks.spec import ModelSpec
    from hast.networks.student import remove_quantizers
    from hast.storage.bank import open_bank
    from hast.storage.bank_tools import save_bank
    from hast.storage.checkpoints import load, save

__version__ = "0.1.0"
__all__ = [
    "Bank",
    "HastError",
    "InputError",
    "ModelSpec",
    "NonFiniteLossError",
    "coverage",
    "evaluate",
    "export_onnx",
    "export_program",
    "load",
    "load_classifier",
    "open_bank",
    "quantize",
    "quantize_zero_shot",
    "remove_quantizers",
    "save",
    "save_bank",
    "synthesize",
    "train_generator",
]

# Imported on first use: a pipeline stage needs a part of the library and depends on that part only.
# (The imports above never run; stages/code.py finds in them what a stage that takes a name uses.)
_HOMES = {
    "Bank": "hast.bank",
    "coverage": "hast.networks.coverage",
    "export_onnx": "hast.export.onnx_graph",
    "export_program": "hast.export.program",
    "ModelSpec": "hast.networks.spec",
    "load_classifier": "hast.classifier_source",
    "open_bank": "hast.storage.bank",
    "remove_quantizers": "hast.networks.student",
    **dict.fromkeys(("load", "save"), "hast.storage.checkpoints"),
    "save_bank": "hast.storage.bank_tools",
    **dict.fromkeys(("HastError", "InputError", "NonFiniteLossError"), "hast.errors"),
    **dict.fromkeys(
        ("evaluate", "quantize", "quantize_zero_shot", "synthesize", "train_generator"), "hast.api"
    ),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hast' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
