"""A student as an ONNX graph of QuantizeLinear and DequantizeLinear.

torch's exporter has no operator for codes of less than a byte: codes are exported as bytes, and
those of four bits and less are given their true container afterwards.
"""

import copy
import io
import json
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from hast.config.export import Inputs, Target
from hast.config.spec import ModelSpec
from hast.engine.machine import __version__
from hast.errors import needs, one_of
from hast.export.forms import OnnxActivation, OnnxWeight, onnx_weight
from hast.export.inputs import example_images, takes
from hast.export.program import trace
from hast.files.placing import write_atomically
from hast.networks.codes import lower
from hast.networks.folding import fold_batch_norm as fold
from hast.networks.provenance import provenance_of, spec_and_plan

OPSET = 21  # the first with types of four bits


def export_onnx(
    student: nn.Module,
    path: Path | str,
    *,
    target: Target = "generic",
    inputs: Inputs = "normalized",
    fold_batch_norm: bool | None = None,
) -> Path:
    """Write a student as an ONNX model of opset 21 with a batch of any size, and check it.

    Args:
        student: of `hast.quantize` or `hast.load`.
        path: the file to write.
        target: `generic` keeps weights of up to 4 bits in types of 4 bits and loads everywhere;
            `onnxruntime-cpu` keeps them in bytes and folds BatchNorm, for integer kernels.
        inputs: what the graph takes as `images` (N, C, H, W): `normalized` floats, as the student
            does; `pixels`, floats in [0, 1]; `bytes`, uint8. The graph then normalizes them.
        fold_batch_norm: by default what is best for the target. Folded, answers are equal up to
            rounding; kept, they are computed in the student's own order.

    Raises:
        InputError: `onnx` is not installed, an option is unknown, the student is none, the
            network cannot be traced, or the file cannot be written.
    """
    require_onnx()
    one_of("target", target, Target)
    (spec, plan), known = spec_and_plan(student), provenance_of(student)
    if target == "onnxruntime-cpu" if fold_batch_norm is None else fold_batch_norm:
        student = fold(student, spec)
    lowered = lower(student, partial(onnx_weight, target=target), OnnxActivation)
    lowered = takes(lowered, spec, inputs)
    model = _translate(lowered, spec, inputs)
    _narrow(model, lowered)
    description = {
        "target": target,
        "source": known.source,
        "teacher": known.teacher,
        "plan": plan.model_dump(),
    }
    return _write(model, Path(path), spec, inputs, description)


def export_float_onnx(
    network: nn.Module, spec: ModelSpec, path: Path | str, *, inputs: Inputs = "normalized"
) -> Path:
    """Write a network in full precision, as `export_onnx` writes its student."""
    require_onnx()
    network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    model = _translate(takes(network, spec, inputs), spec, inputs)
    return _write(model, Path(path), spec, inputs, {})


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


def _translate(network: nn.Module, spec: ModelSpec, inputs: Inputs) -> Any:
    """The graph as torch's exporter makes it, an `onnx_ir.Model`."""
    program = trace(network, example_images(spec, inputs))
    # The exporter narrates its steps, and warns of versions of its own parts.
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
            opset_version=OPSET,
        )
    assert exported is not None
    for value in (*exported.model.graph.inputs, *exported.model.graph.outputs):
        assert value.shape is not None
        value.shape[0] = "batch"  # torch calls it s34 or so
    return exported.model


def _narrow(model: Any, lowered: nn.Module) -> None:
    """Give codes of up to four bits, exported as bytes, a type of four bits."""
    ir = import_module("onnx_ir")
    weights = {
        f"{name.removesuffix('.0')}.original": module
        for name, module in lowered.named_modules()
        if isinstance(module, OnnxWeight)
    }
    for node in model.graph:
        weight = weights.get(node.inputs[0].name) if node.op_type == "DequantizeLinear" else None
        if weight is None or weight.container_bits == 8:
            continue
        kind = ir.DataType.INT4 if weight.signed else ir.DataType.UINT4
        layer = node.inputs[0].name.partition(".parametrizations")[0]
        # Equal zero points of several layers are one value, so each layer gets its own again.
        for index, part in ((0, "codes"), (2, "zero_point")):
            numbers = node.inputs[index].const_value.numpy().astype(kind.numpy())
            tensor = ir.Tensor(numbers, dtype=kind)
            value = ir.Value(
                name=f"{layer}.weight_{part}",
                shape=tensor.shape,
                type=ir.TensorType(kind),
                const_value=tensor,
            )
            model.graph.register_initializer(value)
            node.replace_input_with(index, value)
    for name, value in list(model.graph.initializers.items()):
        if not value.uses():
            del model.graph.initializers[name]


def _write(
    model: Any, path: Path, spec: ModelSpec, inputs: Inputs, description: Mapping[str, Any]
) -> Path:
    onnx, ir = require_onnx(), import_module("onnx_ir")
    graph = model.graph
    for part in (graph, *graph.all_nodes(), *graph.inputs, *graph.outputs):
        part.metadata_props.clear()  # where in the source a node came from: paths of this machine
    for value in graph.initializers.values():
        value.metadata_props.clear()
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]  # a tenth of the file, and any reader infers it again
    proto.producer_name, proto.producer_version = "hast", __version__
    about = {
        "inputs": inputs,
        "input_shape": spec.input_shape,
        "mean": spec.mean,
        "std": spec.std,
        "labels": spec.class_names,
        **description,
    }
    texts = {key: v if isinstance(v, str) else json.dumps(v) for key, v in about.items()}
    onnx.helper.set_model_props(proto, {f"hast.{key}": text for key, text in texts.items()})
    onnx.checker.check_model(proto, full_check=True)
    write_atomically(path, proto.SerializeToString(deterministic=True))
    return path
