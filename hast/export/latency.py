"""How long a deployed file takes, beside the same network in full precision."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from hast.config.export import Inputs
from hast.config.spec import ModelSpec
from hast.errors import first_line, warn
from hast.export.forms import in_full_precision
from hast.export.inputs import example_images
from hast.export.onnx_graph import export_float_onnx
from hast.export.onnx_packages import open_in
from hast.networks.provenance import spec_and_plan

_SECONDS = 1.0  # for each model and batch, at least
_ROUNDS = 5  # at least
_REST = 0.05  # seconds; threads of the model before wait actively for more work, on our cores


Milliseconds = dict[str, dict[str, float]]  # by model, then by `batch_1`, `batch_64`, ...


@contextmanager
def only_a_figure(name: str) -> Iterator[None]:
    """Warn where it cannot be measured, or kept: that is no reason to lose what was exported."""
    try:
        yield
    except Exception as error:
        warn(f"{name}: latency is not known: {first_line(error)}")


def latency_of(student: nn.Module, path: Path, *, inputs: Inputs, runtime: str) -> Milliseconds:
    """Milliseconds of a call of a student's ONNX file, as `onnx`, and as `fp32` of the same network
    without its quantizers; see `measure_latency`."""
    spec, _ = spec_and_plan(student)
    with TemporaryDirectory() as folder:
        full = Path(folder) / "fp32.onnx"
        export_float_onnx(in_full_precision(student), spec, full, inputs=inputs)
        return measure_latency({"fp32": full, "onnx": path}, spec, inputs=inputs, runtime=runtime)


def measure_latency(
    models: Mapping[str, Path],
    spec: ModelSpec,
    batches: Sequence[int] = (1, 64),
    *,
    inputs: Inputs = "normalized",
    runtime: str = "onnxruntime",
) -> Milliseconds:
    """Median milliseconds of one call on the CPU, with the runtime's default optimizations.

    The models take turns, so that what else the machine does falls on all of them.

    Args:
        models: ONNX files by name.
        spec: tells the shape of an image.
        batches: images of a call.
        inputs: what the models take.
        runtime: `onnxruntime` or `openvino`.
    """
    programs = {name: open_in(runtime, path) for name, path in models.items()}
    found: Milliseconds = {name: {} for name in models}
    for batch in batches:
        example = example_images(spec, inputs, batch)
        if inputs != "bytes":
            example = torch.rand(example.shape)
        images = example.numpy()
        for compute in programs.values():
            compute(images)  # the first call allocates
        times: dict[str, list[float]] = {name: [] for name in models}
        end = time.perf_counter() + _SECONDS * len(models)
        while time.perf_counter() < end or len(times[next(iter(times))]) < _ROUNDS:
            for name, compute in programs.items():
                time.sleep(_REST)
                start = time.perf_counter()
                compute(images)
                times[name].append(time.perf_counter() - start)
        for name in models:
            found[name][f"batch_{batch}"] = 1000 * statistics.median(times[name])
    return found
