"""A student as an ONNX graph of QuantizeLinear and DequantizeLinear.

torch's exporter has no operator for codes of less than a byte: codes are exported as bytes, and
those of four bits and less are given their true container afterwards.
"""

import ast
import copy
import io
import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hast.bank.toolkits import as_inputs
from hast.config.export import Inputs
from hast.config.spec import ModelSpec
from hast.config.targets import TARGETS, Target, onnx_target
from hast.engine.machine import __version__
from hast.errors import InputError, first_line, one_of
from hast.export.forms import OnnxActivation, OnnxWeight, onnx_weight
from hast.export.graph_rewrites import constant
from hast.export.inputs import example_images, takes
from hast.export.integer_graph import complete
from hast.export.onnx_packages import open_in, require_onnx
from hast.export.program import trace
from hast.files.placing import write_atomically
from hast.networks.codes import lower
from hast.networks.folding import fold_batch_norm as fold
from hast.networks.provenance import provenance_of, spec_and_plan
from hast.networks.retarget import retargeted

OPSET = 21  # the first with types of four bits
_IMAGES, _BATCH = 64, 16  # that set ranges


def export_onnx(
    student: nn.Module,
    path: Path | str,
    *,
    target: Target | None = None,
    images: Tensor | None = None,
    inputs: Inputs = "normalized",
    fold_batch_norm: bool | None = None,
    min_agreement: float = 0.97,
) -> Path:
    """Write a student as an ONNX model of opset 21 with a batch of any size, and check it.

    Args:
        student: of `hast.quantize` or `hast.load`.
        path: the file to write.
        target: what will run it, see `hast.config.targets`; by default what the student was made
            for. `generic` loads everywhere; the others' graph is in integers as far as they can;
            `pt2e` is of `hast.export_program`.
        images: normalized, (N, C, H, W), some of a bank: they set the ranges between the student's
            own quantizers. Every target but `generic` needs them, unless activations are floats.
        inputs: what the graph takes as `images` (N, C, H, W): `normalized` floats, as the student
            does; `pixels`, floats in [0, 1]; `bytes`, uint8. The graph then normalizes them.
        fold_batch_norm: by default what is best for the target. Folded, answers are equal up to
            rounding; kept, they are computed in the student's own order.
        min_agreement: for another target than the student's own, whose numbers are derived anew:
            least share of `images`, in [0, 1], that both must answer alike.

    Raises:
        InputError: `onnx` is not installed, an option is unknown, the student is none, the target
            cannot have its widths, needs images or answers otherwise, the network cannot be traced,
            or the file cannot be written.
    """
    require_onnx()
    (spec, plan), known = spec_and_plan(student), provenance_of(student)
    target = target or onnx_target(plan.target)
    model = onnx_graph(
        student, target, images,
        inputs=inputs, fold_batch_norm=fold_batch_norm, min_agreement=min_agreement,
    )  # fmt: skip
    plan = plan.model_copy(update={"target": target})
    made = {"target": target, "source": known.source, "teacher": known.teacher}
    return _write(model, Path(path), spec, inputs, made | {"plan": plan.model_dump()})


def onnx_graph(
    student: nn.Module,
    target: Target,
    images: Tensor | None,
    *,
    inputs: Inputs = "normalized",
    fold_batch_norm: bool | None = None,
    min_agreement: float = 0.0,
) -> Any:
    """The graph of `export_onnx`, an `onnx_ir.Model`."""
    spec, plan = spec_and_plan(student)
    one_of("target", target, Target)
    rules = TARGETS[target]
    if rules.reads_programs:
        raise InputError(
            f"target '{target}' reads no ONNX; export NAME.pt2 for it (hast.export_program), or"
            " name another target for NAME.onnx"
        )
    in_integers = bool(rules.integer_ops and plan.activations)
    seen = _checked(images, spec, target) if in_integers or images is not None else None
    student = retargeted(student, target, seen, min_agreement)
    if in_integers if fold_batch_norm is None else fold_batch_norm:
        student = fold(student, spec)
    quantizers = partial(onnx_weight, rules=rules), partial(OnnxActivation, rules=rules)
    lowered = takes(lower(student, *quantizers), spec, inputs)
    model = _translate(lowered, spec, inputs)
    _narrow(model, lowered)
    if in_integers and seen is not None:
        given = as_inputs(seen, spec, inputs)
        complete(model, rules, partial(_ranges, model, given))
    return model


def export_float_onnx(
    network: nn.Module, spec: ModelSpec, path: Path | str, *, inputs: Inputs = "normalized"
) -> Path:
    """Write a network in full precision, as `export_onnx` writes its student."""
    require_onnx()
    network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    model = _translate(takes(network, spec, inputs), spec, inputs)
    return _write(model, Path(path), spec, inputs, {})


def _translate(network: nn.Module, spec: ModelSpec, inputs: Inputs) -> Any:
    """The graph as torch's exporter makes it, an `onnx_ir.Model`."""
    program = trace(network, example_images(spec, inputs))
    # The exporter narrates its steps, and warns of versions of its own parts.
    with warnings.catch_warnings(action="ignore"), redirect_stdout(io.StringIO()):
        try:
            exported: Any = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["logits"],
                opset_version=OPSET,
            )
        except Exception as error:  # at whatever it does not know
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            raise InputError(
                f"{type(network).__name__} cannot be exported to ONNX: {first_line(cause)}"
            ) from error
    for value in (*exported.model.graph.inputs, *exported.model.graph.outputs):
        value.shape[0] = "batch"  # torch calls it s34 or so
    names: Counter[str] = Counter()
    for node in exported.model.graph:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        module = scopes[-2] if len(scopes) > 1 else ""  # the last is the operator's own
        name = f"{module}/{node.op_type}"
        node.name = f"{name}_{names[name]}" if names[name] else name
        names[name] += 1
    return exported.model


def module_of(node: Any) -> str:
    """The module that a node of our files is part of; of the network itself it is ""."""
    return str(node.name).rpartition("/")[0]


def _narrow(model: Any, lowered: nn.Module) -> None:
    """Give codes of up to four bits, exported as bytes, a type of four bits."""
    types = import_module("onnx_ir").DataType
    weights = {
        f"{name.removesuffix('.0')}.original": module
        for name, module in lowered.named_modules()
        if isinstance(module, OnnxWeight)
    }
    for node in model.graph:
        weight = weights.get(node.inputs[0].name) if node.op_type == "DequantizeLinear" else None
        if weight is None or weight.container_bits == 8:
            continue
        kind = (types.INT4 if weight.signed else types.UINT4).numpy()
        layer = node.inputs[0].name.partition(".parametrizations")[0]
        # Equal zero points of several layers are one value, so each layer gets its own again.
        for index, part in ((0, "codes"), (2, "zero_point")):
            numbers = node.inputs[index].const_value.numpy().astype(kind)
            narrow = constant(model.graph, f"{layer}.weight_{part}", numbers)
            node.replace_input_with(index, narrow)


def _checked(images: Tensor | None, spec: ModelSpec, target: Target) -> Tensor:
    wanted = ", ".join(map(str, spec.input_shape))
    if images is None or not len(images) or images.shape[1:] != spec.input_shape:
        found = "none" if images is None else f"a tensor of shape {tuple(images.shape)}"
        raise InputError(
            f"target '{target}' needs some images of the bank, for the ranges between the student's"
            f" own quantizers: (N, {wanted}), got {found}; give images=bank.images[:64], or --bank"
        )
    return images[:_IMAGES].detach().cpu().float()


def _ranges(model: Any, images: Tensor, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Minimum and maximum of values of a model, by name, over images as it takes them."""
    if not names:
        return {}
    make = require_onnx().helper
    proto = import_module("onnx_ir").to_proto(model)
    for name in names:
        for end in ("Min", "Max"):
            edge = f"{name}.{end}"
            proto.graph.node.append(make.make_node(f"Reduce{end}", [name], [edge], keepdims=0))
            proto.graph.output.append(make.make_empty_tensor_value_info(edge))
    compute = open_in("onnxruntime without optimizations", proto.SerializeToString())
    found = dict.fromkeys(names, (np.inf, -np.inf))
    for batch in images.split(_BATCH):
        _, *edges = compute(batch.numpy())
        for name, low, high in zip(names, edges[::2], edges[1::2], strict=True):
            found[name] = min(found[name][0], low.item()), max(found[name][1], high.item())
    return found


def _write(
    model: Any, path: Path, spec: ModelSpec, inputs: Inputs, description: Mapping[str, Any]
) -> Path:
    onnx, ir = require_onnx(), import_module("onnx_ir")
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]  # it was replaced
    values = *graph.inputs, *graph.outputs, *graph.initializers.values()
    for part in (graph, *graph.all_nodes(), *values):
        part.metadata_props.clear()  # where in the source a node came from: paths of this machine
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]  # a tenth of the file, and any reader infers it again
    proto.producer_name, proto.producer_version = "hast", __version__
    about = {
        "inputs": inputs,
        **spec.model_dump(include={"input_shape", "mean", "std"}),
        "labels": spec.class_names,
        **description,
    }
    texts = {key: v if isinstance(v, str) else json.dumps(v) for key, v in about.items()}
    onnx.helper.set_model_props(proto, {f"hast.{key}": text for key, text in texts.items()})
    onnx.checker.check_model(proto, full_check=True)
    write_atomically(path, proto.SerializeToString(deterministic=True))
    return path
