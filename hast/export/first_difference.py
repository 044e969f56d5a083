"""Where in the network a deployed file begins to differ from its student."""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from hast.export.graph_rewrites import WEIGHTED
from hast.export.onnx_graph import module_of
from hast.export.onnx_packages import open_in, require_onnx
from hast.networks.hooks import removed_at_exit


def first_difference(
    student: nn.Module, path: Path, program: str, images: Tensor, limit: float
) -> str | None:
    """The first layer that reads something else than in the student.

    What layers read is compared, not what they make: it is the same numbers in both, wherever
    BatchNorm layers were folded and activations clip.

    Args:
        student: as `takes` gives it, in eval mode.
        path: its ONNX file.
        program: that computes it, see `open_in`.
        images: as both take them, (N, C, H, W).
        limit: mean difference, in standard deviations of the student's values, that counts.

    Returns:
        The layer's name; None where the last one alone makes the difference.
    """
    onnx = require_onnx()
    model = onnx.load(str(path))
    maker = {value: node for node in model.graph.node for value in node.output}
    read: dict[str, str] = {}  # outputs of the graph by layer
    for node in [node for node in model.graph.node if node.op_type in WEIGHTED]:
        layer, source = module_of(node), maker.get(node.input[0])
        if layer in read:
            continue  # it is called again
        read[layer] = f"read by {node.name}"
        # A node of its own for the answer: the runtime still fuses the layer with its neighbours.
        operator, inputs = "Identity", node.input[:1]
        if source is not None and source.op_type == "DequantizeLinear":
            operator, inputs = source.op_type, source.input
        model.graph.node.append(onnx.helper.make_node(operator, inputs, [read[layer]]))
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(read[layer]))
    with TemporaryDirectory() as folder:
        onnx.save(model, str(Path(folder) / path.name))
        _, *found = open_in(program, Path(folder) / path.name)(images.numpy())
    expected = _read_by(student, images)
    for layer, values in zip(read, map(torch.from_numpy, found), strict=True):
        if layer in expected and expected[layer].shape == values.shape:
            difference = (expected[layer] - values).abs().mean() / expected[layer].std()
            if not difference <= limit:
                return layer
    return None


def _read_by(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What every module reads when it is first called, behind its quantizers."""
    read: dict[str, Tensor] = {}

    def keep(name: str, _module: nn.Module, arguments: tuple[Tensor, ...], _output: Any) -> None:
        read.setdefault(name, arguments[0])

    layers = [(n, m) for n, m in network.named_modules() if hasattr(m, "weight")]
    handles = [m.register_forward_hook(partial(keep, n)) for n, m in layers]
    with removed_at_exit(handles), torch.no_grad():
        network(images)
    return read
