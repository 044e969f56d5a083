"""All forms of one student in one folder, each compared with the student itself."""

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from hast.bank.toolkits import as_inputs
from hast.config.export import ExportConfig, Format
from hast.config.targets import TARGETS, Target, onnx_target
from hast.errors import InputError
from hast.export.first_difference import first_difference
from hast.export.inputs import takes
from hast.export.onnx_graph import export_onnx
from hast.export.onnx_packages import require_onnx, require_openvino
from hast.export.parity import Parity, compare, logits_of, predictor
from hast.export.program import export_program
from hast.files.placing import sha256_of
from hast.files.tables import write_json
from hast.math.quantization import MAX_BITS
from hast.networks.plan import QuantizationPlan
from hast.networks.provenance import spec_and_plan

FILES: dict[Format, str] = {"onnx": "student.onnx", "program": "student.pt2"}
_FEW = 16  # images that tell where a difference begins
PACKED = ("config.json", "model.safetensors")


class Compared(NamedTuple):
    """One program on one set of images."""

    format: str
    program: str
    images: str
    parity: Parity
    begins: str | None = None  # where it is too far away: the layer that first reads other numbers


def write_formats(
    student: nn.Module, folder: Path, config: ExportConfig, images: Tensor
) -> dict[Format, Path]:
    """Write the formats of `config` to `folder`.

    Args:
        student: as `hast.load` gives it.
        folder: where the files go.
        config: which ones.
        images: see `export_onnx`.

    Raises:
        InputError: a package is missing, or the network cannot be traced.
    """
    if "onnx" in config.formats:
        # Before any work.
        require_onnx(otherwise="take it out of export.formats")
        require_programs(spec_and_plan(student)[1].target)
    return {n: write_format(student, folder / FILES[n], n, config, images) for n in config.formats}


def write_format(
    student: nn.Module,
    path: Path,
    kind: Format,
    config: ExportConfig,
    images: Tensor | None,
    target: Target | None = None,
) -> Path:
    """Write one format, as `config` says otherwise; see `export_onnx` for `images` and `target`.

    Raises:
        InputError: see `write_formats`.
    """
    if kind == "program":
        return export_program(student, path, target=target, inputs=config.inputs)
    fold = config.fold_batch_norm or None
    return export_onnx(
        student, path, target=target, images=images, inputs=config.inputs, fold_batch_norm=fold,
        min_agreement=config.min_agreement,
    )  # fmt: skip


def compare_formats(
    student: nn.Module,
    files: Mapping[Format, Path],
    images: Mapping[str, Tensor],
    config: ExportConfig,
    target: Target,
    labels: Mapping[str, Tensor] | None = None,
) -> Iterator[Compared]:
    """Compare what was written with the student.

    Args:
        student: as `hast.load` gives it.
        files: as `write_formats` gives them.
        images: by name, normalized (N, C, H, W).
        config: the same as of `write_formats`.
        target: of the ONNX file.
        labels: (N,) of those images whose labels are known, by the same name.
    """
    spec, _ = spec_and_plan(student)
    known = takes(student, spec, config.inputs)
    whole, few = slice(config.samples), slice(min(config.samples, config.reference_samples))
    for name, normalized in images.items():
        given = as_inputs(normalized[whole], spec, config.inputs)
        expected, right = logits_of(known, given), (labels or {}).get(name)
        for kind, path in files.items():
            for program in programs(kind, target):
                part = few if program == "onnx reference" else whole
                found = logits_of(predictor(path, program), given[part])
                answers = None if right is None else right[part]
                parity, begins = compare(expected[part], found, answers), None
                if kind == "onnx" and not _is_near(parity, config):
                    limit = config.max_mean_difference
                    begins = first_difference(known, path, program, given[:_FEW], limit)
                yield Compared(kind, program, name, parity, begins)


def check(compared: Compared, config: ExportConfig, plan: QuantizationPlan) -> None:
    """Raises:
    InputError: the answers are further apart than `config` allows; names the figures.
    """
    parity = compared.parity
    if _is_near(parity, config):
        return
    kernels = TARGETS[plan.target].integer_ops and compared.program in ("onnxruntime", "openvino")
    wide = kernels and MAX_BITS in plan.weights.values()
    way_out = "; processors without VNNI saturate on weights of 8 bits, take 7" if wide else ""
    first = f"; {compared.begins} is the first layer that reads other numbers"
    raise InputError(
        f"{compared.format} in {compared.program} gives the student's answer on"
        f" {100 * parity.agreement:.6g}% of {parity.samples} images of {compared.images}, at"
        f" least {100 * config.min_agreement:.6g}% is asked for (min_agreement); its logits"
        f" differ by {_difference(parity):.6g} standard deviations on average, at most"
        f" {config.max_mean_difference:.6g} is allowed (max_mean_difference)"
        f"{first if compared.begins else ''}{way_out}"
    )


def _is_near(parity: Parity, config: ExportConfig) -> bool:
    near = _difference(parity) <= config.max_mean_difference
    return near and parity.agreement >= config.min_agreement


def _difference(parity: Parity) -> float:
    return parity.mean_difference / max(parity.logit_spread, 1e-12)


def write_card(
    folder: Path, student: nn.Module, config: ExportConfig, crop_fraction: float, found: Compared
) -> None:
    """Write what somebody needs to use the ONNX file in `folder` without this package: card.json,
    and predict.py, which reads it.

    Args:
        folder: see `write_formats`.
        student: of the file.
        config: see `write_formats`.
        crop_fraction: of a picture that covers the input, see `hast.config.dataset`.
        found: how the file compares with the student, in what is nearest to where it will run.
    """
    from hast.export import predict  # it imports the extra's packages

    (spec, plan), model = spec_and_plan(student), folder / FILES["onnx"]
    card = {
        "file": model.name,
        "sha256": sha256_of(model),
        "target": onnx_target(plan.target),
        "inputs": config.inputs,
        **spec.model_dump(include={"input_shape", "mean", "std"}),
        "labels": spec.class_names,
        "crop_fraction": crop_fraction,
        "compared in": found.program,
        "images": found.images,
        **{key: v for key, v in found.parity._asdict().items() if v is not None},
    }
    write_json(folder / "card.json", card)
    (folder / "predict.py").write_text(inspect.getsource(predict), encoding="utf-8")


def bytes_of(folder: Path, files: Mapping[Format, Path]) -> dict[str, int]:
    """Size on disk of every form."""
    packed = sum((folder / name).stat().st_size for name in PACKED)
    return {"packed": packed} | {name: path.stat().st_size for name, path in files.items()}


def programs(kind: Format, target: Target) -> list[str]:
    """Names of what runs a format and is compared with the student."""
    if kind == "program":
        return ["torch"]
    # How a CPU optimizes a file for TensorRT says nothing.
    optimized = {"openvino": ["openvino", "onnxruntime"], "tensorrt": []}
    exact = ["onnxruntime without optimizations", "onnx reference"]
    return optimized.get(target, ["onnxruntime"]) + exact


def runtime_of(target: Target) -> str | None:
    """What an ONNX file is timed in here; None where its target cannot run."""
    first = programs("onnx", target)[0]
    return first if first in ("onnxruntime", "openvino") else None


def require_programs(target: Target) -> None:
    """Raises:
    InputError: what an ONNX file is compared in is not installed.
    """
    if "openvino" in programs("onnx", target):
        require_openvino()
