"""Speed of deployed students, beside full precision and ONNX Runtime's own quantization.

    python -m bench.integer --networks torchvision:resnet18,torchvision:mobilenet_v2

Calls take turns and the median counts. Weights are random and the statistics of BatchNorm those of
noise: good for a speed, and for nothing else. Writes bench/out/integer.json.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

import hast
from bench.experiment import Widths, bank_of, parse_widths
from bench.machine import describe
from bench.run import OUT, warmed
from bench.toolkits import nncf_quantized, runtime_quantized
from hast.bank.record import Bank
from hast.bank.toolkits import CalibrationReader
from hast.config.bit_width import BitWidth
from hast.config.spec import ModelSpec
from hast.config.targets import Target
from hast.errors import one_of
from hast.export.latency import measure_latency
from hast.export.onnx_graph import export_float_onnx
from hast.files.tables import write_json
from hast.networks.sources import build_network

NETWORKS = ",".join(f"torchvision:{name}" for name in ("resnet18", "resnet50", "mobilenet_v2"))
BATCHES = (1, 16)  # images of a call
_IMAGES = 16


def main(
    networks: Annotated[str, typer.Option(help="Sources, with commas.")] = NETWORKS,
    widths: Widths = "w8a8,w4a8,w4a4",
    target: Annotated[str, typer.Option(help="openvino also measures there.")] = "onnxruntime",
) -> None:
    one_of("--target", target, Target)
    rows: list[dict[str, Any]] = []
    for source, network, spec in built(networks):
        images = torch.randn(_IMAGES, *spec.input_shape)
        with TemporaryDirectory() as folder:
            files = deployed(network, spec, images, parse_widths(widths), target, Path(folder))
            runtime = "openvino" if target == "openvino" else "onnxruntime"
            found = measure_latency(files, spec, BATCHES, runtime=runtime)
            rows += [
                {"network": source, "file": name, "bytes": size_of(path), **found[name]}
                for name, path in files.items()
            ]
        show(rows[-len(files) :])
    write_json(OUT / "integer.json", {"machine": describe(torch.device("cpu")), "rows": rows})


def built(sources: str) -> Iterator[tuple[str, nn.Module, ModelSpec]]:
    """Networks with random weights, by source."""
    spec = ModelSpec(input_shape=(3, 224, 224), num_classes=1000, mean=(0.5,) * 3, std=(0.25,) * 3)
    for source in sources.split(","):
        torch.manual_seed(0)
        yield source, warmed(build_network(source, {}).network, spec), spec


def deployed(
    network: nn.Module,
    spec: ModelSpec,
    images: Tensor,
    widths: Sequence[BitWidth],
    target: str,
    folder: Path,
) -> dict[str, Path]:
    """ONNX files by name: full precision, students, and the runtime's own quantization."""
    bank = bank_of(network, spec, images)
    files = {"fp32": export_float_onnx(network, spec, folder / "fp32.onnx")}
    for width in widths:
        student = calibrated(network, spec, bank, width, target)
        path = folder / f"{width}.onnx"
        files[f"ours, {width}"] = hast.export_onnx(student, path, images=images)
    files["ONNX Runtime's own, w8a8"] = own = folder / "own.onnx"
    runtime_quantized(files["fp32"], own, CalibrationReader(bank, batch_size=_IMAGES))
    if target == "openvino":
        files["NNCF's own, w8a8"] = own = folder / "nncf.xml"
        nncf_quantized(files["fp32"], own, CalibrationReader(bank))
    return files


def size_of(path: Path) -> int:
    """Bytes of a model, with what lies beside it under the same name (OpenVINO's weights)."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}.*"))


def calibrated(
    network: nn.Module, spec: ModelSpec, bank: Bank, width: BitWidth, target: str
) -> nn.Module:
    return hast.calibrate(
        network, spec, bank, **width._asdict(), layers={"target": target},
        calibration={"batches": 1, "batch_size": _IMAGES}, progress=False,
    )  # fmt: skip


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    full = rows[0]
    for row in rows:
        times = ", ".join(
            f"{name} {row[name]:.2f} ms ({full[name] / row[name]:.2f}x)"
            for name in row
            if name.startswith("batch_")
        )
        print(f"{row['network']}, {row['file']}: {row['bytes']:,} bytes, {times}", flush=True)


if __name__ == "__main__":
    typer.run(main)
