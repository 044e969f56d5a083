"""export: write the student in all its forms, and compare each with the student itself."""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from hast.config import load_section
from hast.engine import select_device
from hast.export.bundle import (
    Compared,
    ExportConfig,
    bytes_of,
    check,
    compare_formats,
    write_formats,
)
from hast.export.latency import measure_latency
from hast.export.onnx_graph import export_float_onnx
from hast.networks.size import packed_size
from hast.progress import track
from hast.storage.bank import open_bank
from hast.storage.checkpoints import load, save
from hast.storage.datasets import Batches, DatasetConfig, open_batches
from hast.storage.students import load_student
from hast.storage.tables import write_json
from hast.storage.teachers import Teacher, load_teacher
from stages.entry import PARAMS, Bits, Device, In, Out, Params, main


def run(
    *,
    bits: Bits,
    inputs: In,
    teacher: In,
    bank: In,
    student: In,
    out: Out,
    metrics: Out,
    latency: Out,
    params: Params = PARAMS,
    device: Device = "auto",
) -> None:
    """Write the packed checkpoint and the formats to OUT, sizes and agreement to METRICS, and
    milliseconds on this machine to LATENCY.

    INPUTS only says when to do it again.
    """
    del inputs
    config = load_section(params, "export", ExportConfig)
    source = load_teacher(teacher, select_device(device))
    save(load_student(student, source, select_device(device)), out,
         fold_batch_norm=config.fold_batch_norm)  # fmt: skip
    product = load(out, trust_source=True)
    files = write_formats(product, out, config)

    samples = open_bank(bank, teacher=source.card.fingerprint, spec=source.spec)
    images = {"bank": samples.images[: config.samples]}
    batches = open_batches(load_section(params, "dataset", DatasetConfig), "test", source.spec)
    if len(batches):
        images["test"] = _spread(batches, config.samples)
    programs = sum(1 if name == "program" else 3 for name in files) + 1
    compared = compare_formats(product, files, images, config)
    results = [*track(compared, total=programs * len(images), label=f"export {bits}")]
    for result in results:
        check(result, config)

    write_json(metrics, _measures(bytes_of(out, files), packed_size(source.network), results))
    onnx = {name: path for name, path in files.items() if name != "program"}
    write_json(latency, _latency(onnx, source, config) if onnx else {})


def _spread(batches: Batches, count: int) -> Tensor:
    """About `count` images, evenly spaced: a folder of images is in the order of its classes."""
    found: list[Tensor] = []
    step = seen = 0
    for images, _ in batches:
        step = step or max(1, len(batches) * len(images) // count)
        found.append(images[-seen % step :: step])
        seen += len(images)
    return torch.cat(found)[:count]


def _measures(
    sizes: dict[str, int], full: int, results: Iterable[Compared]
) -> dict[str, dict[str, Any]]:
    """By format: bytes, compression against fp32, and agreement by images and program."""
    table: dict[str, dict[str, Any]] = {
        name: {"bytes": size, "compression": full / size} for name, size in sizes.items()
    }
    for name, program, images, parity in results:
        table[name].setdefault(images, {})[program] = parity._asdict()
    return table


def _latency(onnx: dict[Any, Path], source: Teacher, config: ExportConfig) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        full = Path(folder) / "fp32.onnx"
        export_float_onnx(source.network, source.spec, full, inputs=config.inputs)
        return measure_latency({"fp32": full} | onnx, source.spec, inputs=config.inputs)


if __name__ == "__main__":
    main(run)
