"""A graph whose tensors are quantized where they are made, so that integers flow between layers.

A student quantizes what its convolutions and linear layers read. A runtime computes an operator in
integers only if what it reads *and* what it makes are quantized: a convolution that feeds an
addition would stay in floating point, and so would the addition. Two rules complete the graph:

    1. What an integer operator reads or makes gets a quantizer of 8 bits where the student has
       none. A student of this target has most of them (hast/networks/outputs.py, by the same rule);
       one of another target has none, and none can stand between two functions of one `forward`.
       The range is what a few images of the bank make of the tensor. Where the student has a
       quantizer of 8 bits, all readers share it.
    2. Where the target looks for a convolution and its quantizer side by side, the quantizer moves
       in front of the ReLU, clip or pooling that it follows. Rounding is monotone, so
       `quantize(clip(x, a, b)) = clip(quantize(x), quantize(a), quantize(b))`: a clip of codes,
       which mostly is what the code's own range does anyway. Or, by the same rule, all clips
       become one of values in front of the quantizer.
"""

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

import numpy as np
import torch

from hast.config.targets import TargetRules
from hast.export.graph_rewrites import WEIGHTED, append, constant, constants, maker, rewrite
from hast.math.quantization import MAX_BITS, QParams, choose_qparams

# A value, node or model below is one of `onnx_ir`, which is an optional package.
Ranges = Callable[[list[str]], Mapping[str, tuple[float, float]]]

_LARGEST_BIAS = np.float32(2**24)
_LEAST_SCALE = np.float32(1e-20)
# They move codes, or choose among them, and make no new ones.
_MOVES = {"Flatten", "Identity", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
_PICKS = {"Expand", "Gather", "Slice", "Split"}  # they move floats


def complete(model: Any, rules: TargetRules, ranges: Ranges) -> None:
    """Quantize in place what integer operators read and make, by the two rules above.

    Args:
        model: as torch's exporter makes it, with the quantizers of a student.
        rules: of the target.
        ranges: minimum and maximum of values of the model, by name.
    """
    graph = model.graph
    rewrite(graph)
    wanted = {value.name: value for value in _to_quantize(graph, rules)}
    shared = {name: own for name, value in wanted.items() if (own := _own_quantizer(value))}
    signed = rules.symmetric_activations
    for name, ends in ranges([name for name in wanted if name not in shared]).items():
        qparams = choose_qparams(*map(torch.tensor, ends), bits=MAX_BITS, symmetric=signed)
        shared[name] = _quantized(graph, wanted[name], qparams, signed)
    for name, quantize in shared.items():
        (dequantize,) = quantize.outputs[0].consumers()
        _read_instead(wanted[name], dequantize.outputs[0], except_for=quantize)
    if rules.clips:
        for node in [node for node in graph if node.op_type == "QuantizeLinear"]:
            _move_up(graph, node, values=rules.clips == "values")
    if rules.quantizes_biases:
        for node in list(graph):
            if node.op_type in WEIGHTED and _is_integer(node, rules):
                _quantize_bias(graph, node)
    graph.sort()


def float_nodes(graph: Any, rules: TargetRules) -> Iterator[Any]:
    """Nodes of a completed graph that are computed in floating point, in their order."""
    floats = import_module("onnx_ir").DataType.FLOAT
    for node in graph:
        if node.outputs[0].dtype != floats or node.op_type in ("DequantizeLinear", "Constant"):
            continue
        makers = {maker(value) for value in node.inputs if value.const_value is None}
        readers = {reader.op_type for reader in _end_of(node.outputs[0]).consumers()}
        reads_codes, makes_codes = makers == {"DequantizeLinear"}, readers == {"QuantizeLinear"}
        if node.op_type in rules.integer_ops:
            # Without a quantizer behind it, a layer adds integers and answers in floats.
            if reads_codes and (makes_codes or node.op_type in WEIGHTED):
                continue
        elif node.op_type in _MOVES | _PICKS or (_commutes(node) and (reads_codes or makes_codes)):
            continue
        yield node


def _to_quantize(graph: Any, rules: TargetRules) -> Iterator[Any]:
    """Values that integer operators read and make and that are not quantized, in their order."""
    for node in graph:
        if not _is_integer(node, rules):
            continue
        activations = node.inputs[:1] if node.op_type in WEIGHTED else node.inputs
        yield from (value for value in activations if maker(value) != "DequantizeLinear")
        made = _end_of(node.outputs[0])
        readers = made.consumers()
        quantized = [reader.op_type for reader in readers] == ["QuantizeLinear"]
        if made.is_graph_output() or quantized or all(map(_is_float_layer, readers)):
            continue
        # Some integer layers can make floats, and what only floats read may be logits.
        makes_floats = node.op_type in ("Gemm", "MatMul")
        if not makes_floats or any(_reads_codes(reader, rules) for reader in readers):
            yield made


def _is_integer(node: Any, rules: TargetRules) -> bool:
    """Whether it is computed in integers once its activations are quantized."""
    floats = import_module("onnx_ir").DataType.FLOAT
    if node.op_type not in rules.integer_ops or node.outputs[0].dtype != floats:
        return False  # it may add sizes
    if node.op_type in WEIGHTED:
        return not _is_float_layer(node)
    sources = [_source(value) for value in node.inputs]
    constant_input = any(value.const_value is not None for value in node.inputs)
    if constant_input or any(map(_is_float_layer, sources)):
        return False
    # Beside an integer layer only: the sums of a transformer are read by none, and are sensitive.
    made_so = any(source is not None and source.op_type in WEIGHTED for source in sources)
    readers = _end_of(node.outputs[0]).consumers()
    return made_so or any(_reads_codes(reader, rules) for reader in readers)


def _reads_codes(node: Any, rules: TargetRules) -> bool:
    return node.op_type == "QuantizeLinear" or _is_integer(node, rules)


def _is_float_layer(node: Any) -> bool:
    """A layer that the student does not quantize. It reads no codes, and nothing that it makes is
    quantized on its account: ONNX Runtime would take that for leave to quantize its weight."""
    if node is None or node.op_type not in WEIGHTED:
        return False
    return maker(node.inputs[1]) != "DequantizeLinear"


def _source(value: Any) -> Any:
    """The node that makes `value`, behind clips, poolings and views."""
    while _commutes(value.producer()):
        value = value.producer().inputs[0]
    return value.producer()


def _end_of(value: Any) -> Any:
    """The value behind the clips, poolings and views that alone read `value`."""
    readers = value.consumers()
    while len(readers) == 1 and _commutes(readers[0]):
        value = readers[0].outputs[0]
        readers = value.consumers()
    return value


def _commutes(node: Any) -> bool:
    """Whether a quantizer may stand before `node` as well as behind it."""
    if node is None or len(node.outputs) != 1:
        return False
    if node.op_type == "Clip":
        return all(limit is None or limit.const_value is not None for limit in node.inputs[1:])
    return node.op_type == "Relu" or node.op_type in _MOVES


def _own_quantizer(value: Any) -> Any:
    """The student's only quantizer of `value`, where it has 8 bits and others can share it."""
    quantizers = [n for n in value.consumers() if n.op_type == "QuantizeLinear"]
    if len(quantizers) != 1:
        return None
    (reader,) = quantizers[0].outputs[0].consumers()
    return quantizers[0] if reader.op_type == "DequantizeLinear" else None  # else codes are clipped


def _read_instead(value: Any, quantized: Any, *, except_for: Any) -> None:
    for reader, index in list(value.uses()):
        if reader is not except_for and not _is_float_layer(reader):
            reader.replace_input_with(index, quantized)


def _quantized(graph: Any, value: Any, qparams: QParams, signed: bool) -> Any:
    """Insert a quantizer of `value`, which nothing reads yet; returns its QuantizeLinear."""
    kind = np.dtype(np.int8 if signed else np.uint8)
    scale, zero_point = qparams.scale.numpy(), qparams.zero_point.numpy() + np.iinfo(kind).min
    parameters = constants(graph, value.name, scale=scale, zero_point=zero_point.astype(kind))
    codes = append(graph, "QuantizeLinear", [value, *parameters])
    append(graph, "DequantizeLinear", [codes, *parameters])
    return codes.producer()


def _move_up(graph: Any, quantize: Any, *, values: bool) -> None:
    """Rule 2: move a quantizer in front of what it alone reads, as far as that goes; what is then
    to be clipped are codes, or the values that it reads."""
    kind = quantize.inputs[2].const_value.numpy().dtype
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    codes, (reader,) = quantize.outputs[0], quantize.outputs[0].consumers()
    if reader.op_type == "Clip":
        low, high = (edge.const_value.numpy().item() for edge in reader.inputs[1:])
        (dequantize,) = reader.outputs[0].consumers()
        dequantize.replace_input_with(0, codes)
        graph.remove(reader, safe=True)
        reader = dequantize
    while (above := _alone_above(quantize)) is not None:
        quantize.replace_input_with(0, above.inputs[0])
        if above.op_type not in _MOVES:
            edges = _codes(_edges(above), quantize)
            low, high = max(low, edges[0]), min(high, edges[1])
            graph.remove(above, safe=True)
        else:
            above.replace_input_with(0, codes)
            reader.replace_input_with(0, above.outputs[0])
            above.outputs[0].type = above.outputs[0].shape = None  # those of codes now
            reader = above
    if (low, high) == (np.iinfo(kind).min, np.iinfo(kind).max):
        return
    limits = np.array([low, high], kind)
    if values:
        scale, zero_point = (value.const_value.numpy() for value in quantize.inputs[1:3])
        limits = (limits.astype(np.float32) - zero_point.astype(np.float32)) * scale
    read = quantize.inputs[0] if values else codes
    ends = constants(graph, read.name, low=limits[0], high=limits[1])
    (quantize if values else reader).replace_input_with(0, append(graph, "Clip", [read, *ends]))


def _alone_above(quantize: Any) -> Any:
    """The clip, pooling or view that only `quantize` reads, or None."""
    value = quantize.inputs[0]
    if len(value.uses()) != 1 or value.is_graph_output() or _is_float_layer(_source(value)):
        return None
    return value.producer() if _commutes(value.producer()) else None


def _codes(edges: tuple[float, float], quantize: Any) -> list[int]:
    """The codes of two values."""
    scale, zero_point = (parameter.const_value.numpy() for parameter in quantize.inputs[1:3])
    limits = np.iinfo(zero_point.dtype)
    codes = np.rint(np.array(edges, np.float32) / scale) + zero_point
    return [int(code) for code in codes.clip(limits.min, limits.max)]


def _quantize_bias(graph: Any, node: Any) -> None:
    """Store a bias as what an integer kernel adds to its sum: 32 bits, in steps of both scales."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if node.op_type == "ConvTranspose" or bias is None or bias.const_value is None:
        return  # the scales of a transposed convolution may be others than those of its outputs
    step = node.inputs[0].producer().inputs[1].const_value.numpy()
    weight, numbers = node.inputs[1].producer(), bias.const_value.numpy()
    codes, scale = (value.const_value.numpy() for value in weight.inputs[:2])
    # A channel whose weights are next to nothing beside its bias: a scale with room for the bias.
    wider = np.maximum(scale, np.maximum(np.abs(numbers) / (step * _LARGEST_BIAS), _LEAST_SCALE))
    if (wider > scale).any():
        shrunk = codes * (scale / wider).reshape(-1, *[1] * (codes.ndim - 1))
        for index, array in ((0, np.rint(shrunk).astype(codes.dtype)), (1, wider)):
            name = f"{weight.inputs[index].name}.wider"
            weight.replace_input_with(index, constant(graph, name, array))
    both = np.maximum(step * wider, np.finfo(np.float32).tiny)
    sums = np.rint(numbers / both).astype(np.int32)
    stored = constants(graph, bias.name, codes=sums, scale=both)
    node.replace_input_with(2, append(graph, "DequantizeLinear", stored, axis=0))


def _edges(clip: Any) -> tuple[float, float]:
    """What a ReLU or clip limits its values to."""
    if clip.op_type == "Relu":
        return 0.0, np.inf
    low, high = (value and value.const_value.numpy().item() for value in clip.inputs[1:3])
    return -np.inf if low is None else low, np.inf if high is None else high
