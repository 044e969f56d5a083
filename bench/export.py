"""Packed checkpoints in all their forms: size, agreement on a test folder, latency.

    python -m bench.export STUDENT... --images FOLDER

STUDENT is a packed checkpoint (`hast.save`, or artifacts/export/w4a4 of the pipeline); FOLDER holds
test/CLASS/IMAGE. Prints the tables of the report and of `make run`, below the figures of every
program, and writes bench/out/export.json.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from torch import nn

from bench.machine import describe
from bench.run import OUT
from hast.config.dataset import DatasetConfig
from hast.config.export import ExportConfig
from hast.export.bundle import bytes_of, compare_formats, write_formats
from hast.export.latency import measure_latency
from hast.export.onnx_graph import export_float_onnx
from hast.files.checkpoints import load
from hast.files.datasets import open_batches
from hast.files.tables import write_json
from hast.networks.provenance import spec_and_plan
from hast.networks.size import packed_size
from hast.networks.student import remove_quantizers
from hast.report.tables import (
    EXPORT_COLUMNS,
    LATENCY_COLUMNS,
    export_rows,
    latency_rows,
    markdown_rows,
)


def main(
    students: list[Path],
    images: Annotated[Path, typer.Option(help="Holds test/CLASS/IMAGE.")],
    samples: int = 10_000,
    reference_samples: int = 200,
) -> None:
    exports: dict[str, dict[str, Any]] = {}
    latency: dict[str, dict[str, Any]] = {}
    config = ExportConfig(samples=samples, reference_samples=reference_samples)
    for path in students:
        exports[path.name], latency[path.name] = measure(path, images, config)
    machine = describe(torch.device("cpu"))
    write_json(OUT / "export.json", {"machine": machine, "exports": exports, "latency": latency})
    print(markdown_rows([EXPORT_COLUMNS, *export_rows(exports)], left=2))
    print(markdown_rows([LATENCY_COLUMNS, *latency_rows(latency)]))


def measure(
    path: Path, root: Path, config: ExportConfig
) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """What the stage `export` measures, on real images alone."""
    student = load(path, trust_source=True)
    spec, _ = spec_and_plan(student)
    batches = open_batches(DatasetConfig(name="folder", root=root), "test", spec)
    images = torch.cat([x for x, _ in batches])
    labels = torch.cat([y for _, y in batches])
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    with TemporaryDirectory() as name:
        folder = Path(name)
        files = write_formats(student, folder, config)
        full = remove_quantizers(load(path, trust_source=True))
        sizes = bytes_of(path, files)
        table: dict[str, Any] = {
            kind: {"bytes": size, "compression": packed_size(full) / size}
            for kind, size in sizes.items()
        }
        shuffled = {"test": images[order]}
        for kind, program, on, parity in compare_formats(student, files, shuffled, config):
            table[kind].setdefault(on, {})[program] = parity._asdict()
            print(f"{path.name}, {kind} in {program}: {parity}", flush=True)
        fp32 = export_float_onnx(full, spec, folder / "fp32.onnx")
        onnx = {kind: file for kind, file in files.items() if kind != "program"}
        times = measure_latency({"fp32": fp32} | onnx, spec)
    print(f"{path.name}: top-1 {accuracy(student, images, labels):.2%}", flush=True)
    return table, times


def accuracy(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.no_grad():
        answers = torch.cat([network(batch).argmax(1) for batch in images.split(256)])
    return float((answers == labels).float().mean())


if __name__ == "__main__":
    typer.run(main)
