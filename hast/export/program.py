"""A student as a `torch.export` program: torch's own operators, without this package."""

import inspect
import io
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hast.config.export import Inputs
from hast.config.targets import TARGETS, Target
from hast.errors import InputError, first_line, one_of
from hast.export.forms import RoundedActivation, decomposed, stored_weight
from hast.export.inputs import example_images, takes
from hast.files.placing import write_atomically
from hast.networks.codes import lower
from hast.networks.folding import fold_batch_norm
from hast.networks.provenance import spec_and_plan
from hast.networks.retarget import retargeted


def export_program(
    student: nn.Module,
    path: Path | str,
    *,
    target: Target | None = None,
    inputs: Inputs = "normalized",
) -> Path:
    """Write a student as a `.pt2` file for `torch.export.load`, with a batch of any size.

    Its answers are the student's to the bit; codes take one byte each. For `pt2e` they are so up to
    rounding: it has BatchNorm folded, and the quantizers that `torch.compile` makes integers of.

    Args:
        student: of `hast.quantize` or `hast.load`.
        path: the file to write.
        target: what will run it; by default what the student was made for. All but `pt2e` give
            plain operators, which no compiler recognises.
        inputs: what the program takes, see `hast.export_onnx`.

    Raises:
        InputError: it is no student, an option is unknown, the network cannot be traced, or the
            file cannot be written.
    """
    spec, plan = spec_and_plan(student)
    target = target or plan.target
    one_of("target", target, Target)
    rules = TARGETS[target]
    student = retargeted(student, target)
    if rules.reads_programs:
        # Inductor folds no BatchNorm into codes, and it would stand between a layer and its ReLU.
        lowered = decomposed(fold_batch_norm(student, spec), rules)
    else:
        lowered = lower(student, stored_weight, RoundedActivation)
    program = trace(takes(lowered, spec, inputs), example_images(spec, inputs))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    # In memory first: the name of a file would be written into it.
    content = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        # It warns of every tensor that is laid out channels-last, and saves it rightly.
        torch.export.save(program, content)
    write_atomically(Path(path), content.getvalue())
    return Path(path)


def trace(network: nn.Module, images: torch.Tensor) -> Any:
    """The exported program of a network whose batch may have any size.

    Raises:
        InputError: the network cannot be traced.
    """
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            shapes: Any = {0: torch.export.Dim("batch")}
            first = next(iter(inspect.signature(network.forward).parameters.values()))
            if first.kind is first.VAR_POSITIONAL:
                shapes = (shapes,)
            return torch.export.export(network, (images,), dynamic_shapes=(shapes,))
    except Exception as error:  # tracing runs any code
        name = type(network).__name__
        raise InputError(f"{name} cannot be exported: {first_line(error)}") from error
