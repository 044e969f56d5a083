"""A student as a `torch.export` program: plain torch operators, without this package."""

import io
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hast.config.export import Inputs
from hast.errors import InputError, first_line
from hast.export.forms import RoundedActivation, stored_weight
from hast.export.inputs import example_images, takes
from hast.files.placing import write_atomically
from hast.networks.codes import lower
from hast.networks.provenance import spec_and_plan


def export_program(student: nn.Module, path: Path | str, *, inputs: Inputs = "normalized") -> Path:
    """Write a student as a `.pt2` file for `torch.export.load`, with a batch of any size.

    Its answers are the student's to the bit; codes take one byte each.

    Args:
        student: of `hast.quantize` or `hast.load`.
        path: the file to write.
        inputs: what the program takes, see `hast.export_onnx`.

    Raises:
        InputError: it is no student, an option is unknown, the network cannot be traced, or the
            file cannot be written.
    """
    spec, _ = spec_and_plan(student)
    lowered = takes(lower(student, stored_weight, RoundedActivation), spec, inputs)
    program = trace(lowered, example_images(spec, inputs))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    # In memory first: the name of a file would be written into it.
    content = io.BytesIO()
    with warnings.catch_warnings():
        # It warns of every tensor that is laid out channels-last, and saves it rightly.
        warnings.simplefilter("ignore")
        torch.export.save(program, content)
    write_atomically(Path(path), content.getvalue())
    return Path(path)


def trace(network: nn.Module, images: torch.Tensor) -> Any:
    """The exported program of a network whose batch may have any size.

    Raises:
        InputError: the network cannot be traced.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.export.export(
                network, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},)
            )
    except Exception as error:  # tracing runs any code
        name = type(network).__name__
        raise InputError(f"{name} cannot be exported: {first_line(error)}") from error
