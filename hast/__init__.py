"""HAST: make a trained vision network small without its data."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hast.api.samples import import_pictures as import_pictures
    from hast.api.samples import synthesize as synthesize
    from hast.api.samples import train_generator as train_generator
    from hast.api.students import calibrate as calibrate
    from hast.api.students import evaluate as evaluate
    from hast.api.students import quantize as quantize
    from hast.api.zero_shot import quantize_within as quantize_within
    from hast.api.zero_shot import quantize_zero_shot as quantize_zero_shot
    from hast.api.zero_shot import top1_drop as top1_drop
    from hast.bank.record import Bank as Bank
    from hast.bank.stored import open_bank as open_bank
    from hast.bank.toolkits import CalibrationReader as CalibrationReader
    from hast.bank.tools import save_bank as save_bank
    from hast.config.spec import ModelSpec as ModelSpec
    from hast.engine.machine import __version__ as __version__
    from hast.errors import HastError as HastError
    from hast.errors import InputError as InputError
    from hast.errors import NonFiniteLossError as NonFiniteLossError
    from hast.export.onnx_graph import export_onnx as export_onnx
    from hast.export.program import export_program as export_program
    from hast.files.checkpoints import load as load
    from hast.files.checkpoints import save as save
    from hast.files.classifiers import load_classifier as load_classifier
    from hast.networks.coverage import coverage as coverage
    from hast.networks.student import remove_quantizers as remove_quantizers

# Imported on first use: a pipeline stage needs a part of the library and depends on that part only.
# (The imports above never run: hast/files/code.py reads there what a stage that takes a name uses.)
_HOMES = {
    "__version__": "hast.engine.machine",
    "Bank": "hast.bank.record",
    "CalibrationReader": "hast.bank.toolkits",
    "coverage": "hast.networks.coverage",
    "export_onnx": "hast.export.onnx_graph",
    "export_program": "hast.export.program",
    "ModelSpec": "hast.config.spec",
    "import_pictures": "hast.api.samples",
    "load_classifier": "hast.files.classifiers",
    "open_bank": "hast.bank.stored",
    "remove_quantizers": "hast.networks.student",
    **dict.fromkeys(("load", "save"), "hast.files.checkpoints"),
    "save_bank": "hast.bank.tools",
    **dict.fromkeys(("synthesize", "train_generator"), "hast.api.samples"),
    **dict.fromkeys(("HastError", "InputError", "NonFiniteLossError"), "hast.errors"),
    **dict.fromkeys(("calibrate", "evaluate", "quantize"), "hast.api.students"),
    **dict.fromkeys(("quantize_within", "quantize_zero_shot", "top1_drop"), "hast.api.zero_shot"),
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hast' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
