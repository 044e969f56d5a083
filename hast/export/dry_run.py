"""What a target will compute in floating point, told before any work."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from hast.config.bit_width import BitWidth
from hast.config.layers import PlanConfig
from hast.config.spec import ModelSpec
from hast.config.targets import TARGETS
from hast.export.integer_graph import float_nodes
from hast.export.onnx_graph import module_of, onnx_graph
from hast.export.onnx_packages import require_onnx
from hast.loops.calibrate import observe_ranges
from hast.networks.plan import plan_quantization
from hast.networks.student import prepare_student


def float_operators(
    network: nn.Module, spec: ModelSpec, bits: BitWidth, rules: PlanConfig
) -> Mapping[str, Sequence[str]]:
    """Modules by the operators of ONNX that stay in floating point in them.

    The graph is that of a student with ranges of noise: which operators are in integers depends on
    the network, the plan and the target, and on no value.

    Args:
        network: frozen; its weights do not matter.
        spec: of the network.
        bits: of the student.
        rules: the plan's, with its target, which must be one that names a runtime.

    Raises:
        InputError: a package is missing, the target cannot have a width, or the network cannot be
            traced.
    """
    require_onnx()
    student = prepare_student(network, spec, plan_quantization(network, spec, bits, rules))
    noise = torch.randn(2, *spec.input_shape, generator=torch.Generator().manual_seed(0))
    for _ in observe_ranges(student, [noise]):
        pass
    found: dict[str, list[str]] = {}
    for node in float_nodes(onnx_graph(student, rules.target, noise).graph, TARGETS[rules.target]):
        module = module_of(node) or "(the network itself)"
        if module not in found.setdefault(node.op_type, []):
            found[node.op_type].append(module)
    return found
