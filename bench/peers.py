"""Reconstruction beside the post-training quantization of other toolkits: one network, one bank.

    python -m bench.peers --source python:hast.networks.efficientnet_lite0:efficientnet_lite0 \
        --shape 3x224x224 --mean 0.498,0.498,0.498 --std 0.502,0.502,0.502 --crop-fraction 0.875 \
        --images FOLDER --bank BANK --widths w8a8,w4a8

NNCF has 8 bits alone here, Model Compression Toolkit weights of 2, 4 and 8 bits, activations of 8.
It wants another pydantic than this project is tested with: install it into a folder of its own
(`pip install --target mct model-compression-toolkit`) and name that in PYTHONPATH; without it its
rows are left out. The first and the last layer have weights of 8 bits. Writes bench/out/NAME.json
after every row.
"""

import copy
import importlib.util
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from torch import nn

import hast
from bench.experiment import (
    Images,
    Mean,
    Shape,
    Source,
    Std,
    Teacher,
    Weights,
    Widths,
    correct_answers,
    open_teacher,
    parse_widths,
)
from bench.machine import describe
from bench.minutes import REAL, drawn_pictures, imported
from bench.run import OUT
from bench.toolkits import Samples, by_nncf, right
from hast.bank.stored import StoredBank
from hast.config.bit_width import BitWidth
from hast.engine.runtime import device_of
from hast.export.parity import Predict
from hast.files.tables import write_json
from hast.math.intervals import paired_drop
from hast.networks.plan import WEIGHTED, probe_layers
from hast.pipeline.settings import network_settings
from hast.report.tables import markdown_rows

Method = Callable[[Teacher, Samples, BitWidth], Predict]
_BATCH = 16


def main(
    source: Source,
    images: Images,
    mean: Mean,
    std: Std,
    bank: Annotated[Path, typer.Option(help="Of this teacher.")],
    weights: Weights = None,
    shape: Shape = "",
    crop_fraction: float = 1.0,
    widths: Widths = "w8a8,w4a8",
    epochs: Annotated[int, typer.Option(help="Of MCT's GPTQ; 0 leaves it out.")] = 20,
    out: str = "peers",
) -> None:
    teacher = open_teacher(source, weights, images, mean, std, "cpu", shape, crop_fraction)
    spent, rest = drawn_pictures(images, REAL)
    before = correct_answers(teacher.network, teacher)[0][rest]
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        banks: dict[str, Samples] = {
            "bank": StoredBank(bank, spec=teacher.spec),
            "real images": imported(spent, Path(folder), teacher),
        }
        for name, method in methods(epochs).items():
            for width in parse_widths(widths):
                for calibrated_with, samples in banks.items():
                    if name.startswith("NNCF") and str(width) != "w8a8":
                        continue
                    start = time.perf_counter()
                    answer = method(teacher, samples, width)
                    minutes = (time.perf_counter() - start) / 60
                    lost, margin = paired_drop(before, right(answer, teacher)[rest])
                    row: dict[str, Any] = {
                        "method": name,
                        "width": str(width),
                        "images": calibrated_with,
                    }
                    row |= {"minutes": minutes, "drop": 100 * lost, "margin": 100 * margin}
                    rows.append(row)
                    about = {"machine": describe(device_of(teacher.network)), "rows": rows}
                    write_json(OUT / f"{out}.json", about)
                    print(row, flush=True)
    cells = [
        [r["method"], r["width"].upper(), r["images"], f"{r['minutes']:.1f}",
         f"{r['drop']:.2f} ± {r['margin']:.2f}"]
        for r in rows
    ]  # fmt: skip
    print(markdown_rows([["", "width", "images", "minutes", "loses"], *cells], left=3))


def methods(epochs: int) -> dict[str, Method]:
    found: dict[str, Method] = {"this project, recipe `best`": by_us, "NNCF, `quantize`": nncf}
    if importlib.util.find_spec("model_compression_toolkit"):
        found["Model Compression Toolkit, PTQ"] = by_mct
        if epochs:
            gptq = partial(by_mct, epochs=epochs)
            found[f"Model Compression Toolkit, GPTQ of {epochs} epochs"] = gptq
    return found


def nncf(teacher: Teacher, bank: Samples, _width: BitWidth) -> Predict:
    with TemporaryDirectory() as folder:
        return by_nncf(teacher, bank, len(bank.images), Path(folder))


def by_us(teacher: Teacher, bank: Samples, width: BitWidth) -> Predict:
    network, spec, _ = teacher
    values = network_settings(network, spec, recipe="best", size="quick", seed=0)
    return hast.calibrate(
        network, spec, bank, **width._asdict(), progress=False,
        layers=values["layers"] | {"first_last_bits": 8, "target": "onnxruntime"},
        calibration=values["calibrate"], reconstruction=values["reconstruct"],
    )  # fmt: skip


def by_mct(teacher: Teacher, bank: Samples, width: BitWidth, *, epochs: int = 0) -> Predict:
    """Model Compression Toolkit's post-training quantization, or its GPTQ, for its default target.

    What its Hessians weigh is left out: a pass over them takes longer than all the rest.
    """
    import model_compression_toolkit as mct

    network = with_plain_convolutions(teacher.network)
    bits = mct.core.BitWidthConfig()
    name, layer = (
        mct.core.network_editor.NodeNameScopeFilter,
        mct.core.network_editor.NodeTypeFilter,
    )
    bits.set_manual_weights_bit_width(layer(nn.Conv2d), width.weight_bits, "weight")
    ends = [*probe_layers(network, teacher.spec, WEIGHTED)]
    for end in (ends[0], ends[-1]):
        bits.set_manual_weights_bit_width(name(end.replace(".", "_")), 8, "weight")
    core = mct.core.CoreConfig(bit_width_config=bits)

    def batches() -> Iterator[list[Any]]:
        for batch in hast.CalibrationReader(bank, batch_size=_BATCH):
            yield [batch]

    if not epochs:
        quantized, _ = mct.ptq.pytorch_post_training_quantization(
            network, batches, core_config=core
        )
    else:
        config = mct.gptq.get_pytorch_gptq_config(
            n_epochs=epochs, use_hessian_based_weights=False, use_hessian_sample_attention=False
        )
        quantized, _ = mct.gptq.pytorch_gradient_post_training_quantization(
            network, batches, core_config=core, gptq_config=config
        )
    answer: Predict = quantized.eval()
    return answer


def with_plain_convolutions(network: nn.Module) -> nn.Module:
    """A copy in which convolutions that pad by a module of their own are two modules: the toolkit
    takes any subclass for the class itself, and would leave the padding out."""
    plain = copy.deepcopy(network)
    for name, module in list(plain.named_modules()):
        if isinstance(module, nn.Conv2d) and hasattr(module, "static_padding"):
            convolution: Any = copy.deepcopy(module)
            convolution.__class__, padding = nn.Conv2d, convolution.static_padding
            del convolution.static_padding
            plain.set_submodule(name, nn.Sequential(padding, convolution))
    return plain.eval()


if __name__ == "__main__":
    typer.run(main)
