"""How long ONNX Runtime takes, side by side."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hast.config.export import Inputs
from hast.config.spec import ModelSpec
from hast.export.inputs import example_images
from hast.export.onnx_packages import open_session

_SECONDS = 1.0  # for each model and batch, at least
_ROUNDS = 5  # at least
_REST = 0.05  # seconds; threads of the model before wait actively for more work, on our cores


def measure_latency(
    models: Mapping[str, Path],
    spec: ModelSpec,
    batches: Sequence[int] = (1, 64),
    *,
    inputs: Inputs = "normalized",
    open_model: Callable[[Path], Any] = open_session,
) -> dict[str, dict[str, float]]:
    """Milliseconds of one call in ONNX Runtime on the CPU, with its default optimizations.

    The models take turns, so that what else the machine does falls on all of them. The median
    counts.

    Args:
        models: ONNX files by name.
        spec: tells the shape of an image.
        batches: images of a call.
        inputs: what the models take.
        open_model: gives what has ONNX Runtime's `run(outputs, inputs)`.

    Returns:
        By model, then by `batch_1`, `batch_64`, ...
    """
    sessions = {name: open_model(path) for name, path in models.items()}
    found: dict[str, dict[str, float]] = {name: {} for name in models}
    for batch in batches:
        example = example_images(spec, inputs, batch)
        if inputs != "bytes":
            example = torch.rand(example.shape)
        images = {"images": example.numpy()}
        for session in sessions.values():
            session.run(None, images)  # the first call allocates
        times: dict[str, list[float]] = {name: [] for name in models}
        end = time.perf_counter() + _SECONDS * len(models)
        while time.perf_counter() < end or len(times[next(iter(times))]) < _ROUNDS:
            for name, session in sessions.items():
                time.sleep(_REST)
                start = time.perf_counter()
                session.run(None, images)
                times[name].append(time.perf_counter() - start)
        for name in models:
            found[name][f"batch_{batch}"] = 1000 * statistics.median(times[name])
    return found
