"""What torch's exporter writes otherwise than integer kernels look for, written as they do.

Each rewrite computes the same. A graph below is one of `onnx_ir`, which is an optional package.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_TAKES_IN = {"Conv", "Gemm"}


def rewrite(graph: Any) -> None:
    """Rewrite a graph with the quantizers of a student in place."""
    for step in (_transpose_weights, _take_in_batch_norms, _take_in_pads, _pool_globally):
        step(graph)
        graph.sort()


def _transpose_weights(graph: Any) -> None:
    """Codes of a linear layer that reads tokens, stored as its MatMul takes them."""
    for node in list(graph):
        if node.op_type != "Transpose" or maker(node.inputs[0]) != "DequantizeLinear":
            continue
        dequantize = node.inputs[0].producer()
        codes, scale, zero_point = dequantize.inputs
        if codes.const_value is None or len(codes.shape) != 2:
            continue
        turned = constant(graph, f"{codes.name}.transposed", codes.const_value.numpy().T.copy())
        weight = append(graph, "DequantizeLinear", [turned, scale, zero_point], axis=1)
        weight.type = node.outputs[0].type
        node.outputs[0].replace_all_uses_with(weight)
        graph.remove(node, safe=True)


def _take_in_batch_norms(graph: Any) -> None:
    """Let scales and bias of a layer take in the BatchNorm that alone reads it.

    `hast.networks.folding` does so with modules; this finds what is part of other modules, or a
    function. Weights are symmetric here: a negative gain turns the signs of codes.
    """
    for node in list(graph):
        layer = node.inputs[0].producer() if node.op_type == "BatchNormalization" else None
        if layer is None or layer.op_type not in _TAKES_IN or len(layer.outputs[0].uses()) != 1:
            continue
        weight = layer.inputs[1].producer()
        if weight is None or weight.op_type != "DequantizeLinear":
            continue
        stored = [value.const_value for value in (*weight.inputs, *node.inputs[1:])]
        if any(value is None for value in stored) or stored[2].numpy().any():
            continue
        codes, scale, _, gamma, beta, mean, variance = (v.numpy() for v in stored)
        gain = gamma / np.sqrt(variance + node.attributes["epsilon"].value)
        signs = np.where(gain < 0, -1, 1).astype(int).reshape(-1, *[1] * (codes.ndim - 1))
        limits = np.iinfo(codes.dtype)
        bias = layer.inputs[2].const_value.numpy() if len(layer.inputs) > 2 else np.float32(0)
        folded, widened, shifted = constants(
            graph,
            layer.name,
            codes=(codes * signs).clip(limits.min, limits.max).astype(codes.dtype),
            scale=np.maximum(scale * np.abs(gain), np.finfo(scale.dtype).tiny),
            bias=(bias - mean) * gain + beta,
        )
        inputs = [folded, widened, weight.inputs[2]]
        layer.resize_inputs(3)
        layer.replace_input_with(1, append(graph, "DequantizeLinear", inputs, axis=0))
        layer.replace_input_with(2, shifted)
        node.outputs[0].replace_all_uses_with(layer.outputs[0], replace_graph_outputs=True)
        graph.remove(node, safe=True)


def _take_in_pads(graph: Any) -> None:
    """Let a convolution pad with zeros what it alone reads: zero is a code, but no kernel of
    integers has the padding of another node."""
    for node in list(graph):
        pad = node.inputs[0].producer() if node.op_type == "Conv" else None
        if pad is None or pad.op_type != "Pad" or len(pad.outputs[0].uses()) != 1:
            continue
        edges, filler, axes = (pad.inputs[i] if i < len(pad.inputs) else None for i in (1, 2, 3))
        mode = pad.attributes["mode"].value if "mode" in pad.attributes else "constant"
        if mode != "constant" or axes is not None or edges is None or edges.const_value is None:
            continue
        if filler is not None and (filler.const_value is None or filler.const_value.numpy().any()):
            continue
        before, after = edges.const_value.numpy().reshape(2, -1)
        if before[:2].any() or after[:2].any() or before.min() < 0 or after.min() < 0:
            continue
        added = [*before[2:], *after[2:]]
        own = node.attributes["pads"].value if "pads" in node.attributes else [0] * len(added)
        total = [int(a + b) for a, b in zip(own, added, strict=True)]
        node.attributes["pads"] = import_module("onnx_ir").AttrInt64s("pads", total)
        node.replace_input_with(0, pad.inputs[0])
        graph.remove(pad, safe=True)


def _pool_globally(graph: Any) -> None:
    """Means over height and width as a pooling, for which there are integer kernels."""
    for node in list(graph):
        if node.op_type != "ReduceMean" or len(node.inputs) < 2 or node.inputs[0].shape is None:
            continue
        axes, rank = node.inputs[1].const_value, len(node.inputs[0].shape)
        if axes is None or rank != 4 or {int(a) % rank for a in axes.numpy()} != {2, 3}:
            continue
        keep = "keepdims" not in node.attributes or node.attributes["keepdims"].value
        (mean,) = node.outputs
        made = append(graph, "GlobalAveragePool", node.inputs[:1])
        made.producer().name = node.name
        made.type = mean.type
        if not keep:
            made = append(graph, "Flatten", [made])
        name, mean.name = mean.name, f"{mean.name}.mean"
        made.name, made.type, made.shape = name, mean.type, mean.shape
        mean.replace_all_uses_with(made, replace_graph_outputs=True)
        graph.remove(node, safe=True)


def maker(value: Any) -> str:
    """The operator that makes a value; none makes an input or a constant."""
    return "" if value.producer() is None else value.producer().op_type


def constant(graph: Any, name: str, array: Any) -> Any:
    """A constant of this name, or of one like it: equal biases of two layers are one value."""
    ir = import_module("onnx_ir")
    while name in graph.initializers:
        name += "_"
    tensor = ir.tensor(array, name=name)
    kind = ir.TensorType(tensor.dtype)
    value = ir.Value(name=name, shape=tensor.shape, type=kind, const_value=tensor)
    graph.register_initializer(value)
    return value


def constants(graph: Any, name: str, **arrays: Any) -> list[Any]:
    """A constant `name.part` for each part."""
    return [constant(graph, f"{name}.{part}", array) for part, array in arrays.items()]


def append(graph: Any, op: str, inputs: Sequence[Any], **attributes: int) -> Any:
    """What a new node makes. It stands at the end; the graph is sorted when it is complete."""
    node = import_module("onnx_ir").node(op, inputs, attributes)
    graph.append(node)
    return node.outputs[0]
