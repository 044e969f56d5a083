"""What another toolkit makes of a bank: ONNX Runtime's static quantization, calibrated three ways.

    python -m bench.toolkits --source pytorchcv:resnet20_cifar10 --weights W.safetensors \
        --images FOLDER --mean 0.49139968,0.48215827,0.44653124 \
        --std 0.24703233,0.24348505,0.26158768

W8A8, weights per channel, ranges by minimum and maximum of as many images each: standard normal
noise, a bank of recipe `best`, and real training images. Nothing is trained.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import onnxruntime
import torch
import typer
from onnxruntime.quantization import (
    QuantFormat,
    QuantType,
    quantize_static,
)

from bench.accuracy import BANKS, Shared, settings_of
from bench.experiment import (
    Images,
    Mean,
    Shape,
    Source,
    Std,
    Teacher,
    Weights,
    bank_of,
    correct_answers,
    open_teacher,
)
from hast.bank.record import Bank
from hast.bank.toolkits import CalibrationReader
from hast.engine.engine import choose_engine
from hast.engine.runtime import device_of, seeded
from hast.export.onnx_graph import export_float_onnx
from hast.files.datasets import open_batches


def main(
    source: Source,
    images: Images,
    mean: Mean,
    std: Std,
    weights: Weights = None,
    shape: Shape = "",
    samples: Annotated[int, typer.Option(help="Images to calibrate with.")] = 256,
    seed: int = 0,
    banks: Annotated[Path | None, typer.Option(help=BANKS)] = None,
    device: str = "auto",
) -> None:
    teacher = open_teacher(source, weights, images, mean, std, device, shape)
    engine = choose_engine(device_of(teacher.network), work=float("inf"))
    shared = Shared(teacher, seed, "quick", banks, engine)
    noise = torch.randn(samples, *teacher.spec.input_shape, generator=seeded(seed, "bench"))
    calibrated_with = {
        "standard normal noise": bank_of(teacher, noise),
        "bank": shared.bank(settings_of("best", "quick", {})),
        "real images": shared.bank(settings_of("best, real data", "quick", {})),
    }
    right, _ = correct_answers(teacher.network, teacher)
    print("| calibrated with | top-1 |\n| --- | ---: |")
    print(f"| full precision | {100 * right.double().mean():.2f} |")
    for name, chosen in calibrated_with.items():
        print(f"| {name} | {100 * quantized_top1(teacher, chosen, samples):.2f} |", flush=True)


def quantized_top1(teacher: Teacher, bank: Bank, samples: int) -> float:
    """Share of the test images that ONNX Runtime's own quantization answers rightly."""
    network, spec = teacher.network, teacher.spec
    with TemporaryDirectory() as folder:
        full = export_float_onnx(network, spec, Path(folder) / "fp32.onnx")
        small = Path(folder) / "int8.onnx"
        runtime_quantized(full, small, CalibrationReader(bank, batch_size=32, samples=samples))
        session = onnxruntime.InferenceSession(small, providers=["CPUExecutionProvider"])
    right = []
    for batch, labels in open_batches(teacher.data, "test", spec):
        (logits,) = session.run(None, {"images": batch.numpy()})
        right.append(torch.from_numpy(logits).argmax(dim=1) == labels)
    return torch.cat(right).double().mean().item()


def runtime_quantized(full: Path, small: Path, reader: CalibrationReader) -> None:
    """Let ONNX Runtime quantize a model by its own means."""
    quantize_static(
        full, small, reader, quant_format=QuantFormat.QDQ, per_channel=True,
        weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8,
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
