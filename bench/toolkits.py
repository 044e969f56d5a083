"""What other toolkits make of a bank: their own quantization to 8 bits, calibrated three ways.

    python -m bench.toolkits --source pytorchcv:resnet20_cifar10 --weights W.safetensors \
        --images FOLDER --mean 0.49139968,0.48215827,0.44653124 \
        --std 0.24703233,0.24348505,0.26158768

Each calibrates with as many images: standard normal noise, a bank of recipe `best` that takes so
many minutes, and real pictures. Those are some of the test images; all rows are measured on the
others. Nothing is trained. Writes bench/out/NAME.json.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import nncf
import openvino
import torch
import typer
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from torch import nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

import hast
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
from bench.machine import describe
from bench.minutes import drawn_pictures, imported
from bench.run import OUT
from hast.api.zero_shot import make_samples
from hast.bank.record import Bank
from hast.bank.stored import StoredBank
from hast.bank.toolkits import CalibrationReader
from hast.engine.runtime import device_of, seeded
from hast.export.onnx_graph import export_float_onnx
from hast.export.parity import Predict, predictor
from hast.export.program import trace
from hast.files.datasets import open_batches
from hast.files.tables import write_json
from hast.pipeline.settings import network_settings
from hast.report.tables import markdown_rows

Samples = Bank | StoredBank
SAMPLES = 96  # images to calibrate with
_TOGETHER = 32  # of a call: others hold what every layer answers


def main(
    source: Source,
    images: Images,
    mean: Mean,
    std: Std,
    weights: Weights = None,
    shape: Shape = "",
    crop_fraction: float = 1.0,
    bank: Annotated[Path | None, typer.Option(help="One that is there; else one is made.")] = None,
    minutes: Annotated[float, typer.Option(help="For a student; the bank takes half.")] = 5.0,
    out: str = "toolkits",
) -> None:
    teacher = open_teacher(source, weights, images, mean, std, "cpu", shape, crop_fraction)
    network, spec, _ = teacher
    spent, rest = drawn_pictures(images, SAMPLES)
    noise = torch.randn(SAMPLES, *spec.input_shape, generator=seeded(0, "bench"))
    rows = []
    with TemporaryDirectory() as folder:
        calibrated_with: dict[str, Samples] = {
            "standard normal noise": bank_of(network, spec, noise),
            "bank": StoredBank(bank, spec=spec) if bank else made_bank(teacher, minutes),
            "real images": imported(spent, Path(folder), teacher),
        }
        full = correct_answers(network, teacher)[0][rest].double().mean().item()
        for toolkit, quantized in TOOLKITS.items():
            row: dict[str, Any] = {"toolkit": toolkit, "full precision": full}
            for name, chosen in calibrated_with.items():
                with TemporaryDirectory() as place:
                    predict = quantized(teacher, chosen, SAMPLES, Path(place))
                    row[name] = right(predict, teacher)[rest].double().mean().item()
                print(row, flush=True)
            rows.append(row)
    write_json(OUT / f"{out}.json", {"machine": describe(device_of(network)), "rows": rows})
    cells = [[str(r["toolkit"]), *(f"{100 * r[n]:.2f}" for n in r if n != "toolkit")] for r in rows]
    print(markdown_rows([["", *(n for n in rows[0] if n != "toolkit")], *cells], left=1))


def made_bank(teacher: Teacher, minutes: float) -> Bank:
    network, spec, _ = teacher
    settings = network_settings(network, spec, recipe="best", size="quick", seed=0, minutes=minutes)
    return make_samples(network, spec, settings)[1]


def right(predict: Predict, teacher: Teacher) -> torch.Tensor:
    """Whether each test image is answered rightly, (N,)."""
    answers, labels = [], []
    with torch.no_grad():
        for images, known in open_batches(teacher.data, "test", teacher.spec):
            answers += [predict(part).argmax(dim=1) for part in images.split(_TOGETHER)]
            labels.append(known)
    return torch.cat(answers) == torch.cat(labels)


def by_onnx_runtime(teacher: Teacher, bank: Samples, samples: int, folder: Path) -> Predict:
    full = export_float_onnx(teacher.network, teacher.spec, folder / "fp32.onnx")
    runtime_quantized(full, folder / "int8.onnx", CalibrationReader(bank, samples=samples))
    return predictor(folder / "int8.onnx")


def by_nncf(teacher: Teacher, bank: Samples, samples: int, folder: Path) -> Predict:
    full = export_float_onnx(teacher.network, teacher.spec, folder / "fp32.onnx")
    nncf_quantized(full, folder / "int8.xml", CalibrationReader(bank, samples=samples))
    return predictor(folder / "int8.xml", "openvino")


def by_pt2e(teacher: Teacher, bank: Samples, samples: int, _folder: Path) -> Predict:
    network: nn.Module = teacher.network
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    program = trace(network, torch.zeros(2, *teacher.spec.input_shape)).module()
    prepared = prepare_pt2e(program, quantizer)
    for batch in CalibrationReader(bank, samples=samples):
        prepared(torch.from_numpy(batch))
    converted: Predict = convert_pt2e(prepared)
    return converted


def by_us(teacher: Teacher, bank: Samples, samples: int, _folder: Path) -> Predict:
    return hast.calibrate(
        teacher.network, teacher.spec, bank, weight_bits=8, act_bits=8,
        layers={"target": "onnxruntime", "placement": "inputs"}, progress=False,
        calibration={"images": "bank", "batches": -(-samples // 16), "batch_size": 16},
    )  # fmt: skip


TOOLKITS: dict[str, Callable[[Teacher, Samples, int, Path], Predict]] = {
    "ONNX Runtime, `quantize_static`": by_onnx_runtime,
    "OpenVINO, `nncf.quantize`": by_nncf,
    "this project, `hast.calibrate`": by_us,
    "PyTorch, PT2E": by_pt2e,
}


def runtime_quantized(full: Path, small: Path, reader: CalibrationReader) -> None:
    """Let ONNX Runtime quantize a model by its own means."""
    quantize_static(
        full, small, reader, quant_format=QuantFormat.QDQ, per_channel=True,
        weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8,
    )  # fmt: skip


def nncf_quantized(full: Path, small: Path, reader: CalibrationReader) -> None:
    """Let NNCF quantize a model for OpenVINO by its own means; writes NAME.xml and NAME.bin."""
    model = nncf.quantize(
        openvino.Core().read_model(full), nncf.Dataset(reader), subset_size=len(reader)
    )
    openvino.save_model(model, small)


if __name__ == "__main__":
    typer.run(main)
