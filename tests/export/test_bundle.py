"""All forms of a student: the stage, the command, the table."""

import re
from pathlib import Path

import pytest
import torch
from conftest import python, refused, set_params
from own_network import run as run_hast
from PIL import Image
from stage_runs import A, M, run

import hast
from hast.config.dataset import DatasetConfig
from hast.config.export import ExportConfig
from hast.errors import HastWarning
from hast.export.bundle import Compared, check
from hast.export.parity import Parity
from hast.files.datasets import open_batches
from hast.files.placing import sha256_of
from hast.files.tables import read_json
from hast.networks.plan import QuantizationPlan
from hast.networks.provenance import spec_and_plan

pytest.importorskip("onnx", reason="onnx is an optional extra")
pytest.importorskip("onnxruntime", reason="onnxruntime is an optional extra")
pytest.importorskip("onnxscript", reason="onnxscript is an optional extra")


STUDENT = "artifacts/students/w4a4"


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    monkeypatch.setattr("hast.export.latency._SECONDS", 0.01)


def export_as(*formats: str, max_mean_difference: float = 100.0) -> None:
    limits = {"export.min_agreement": 0.0, "export.max_mean_difference": max_mean_difference}
    set_params(Path(), limits | {"export.formats": [*formats], "bit_widths": ["w4a4"]})
    run("export")


def test_the_stage_writes_and_compares_every_form_and_the_report_shows_them(finished):
    export_as("onnx", "program")
    files = {path.name for path in (A / "export/w4a4").iterdir()}
    assert files == {
        "card.json", "config.json", "model.safetensors", "predict.py", "student.onnx",
        "student.pt2",
    }  # fmt: skip
    measured = read_json(M / "export/w4a4.json")
    assert list(measured) == ["packed", "onnx", "program"]
    for images in ("bank", "test"):
        assert measured["program"][images]["torch"]["agreement"] == 1.0
        assert measured["program"][images]["torch"]["max_difference"] == 0.0
        assert set(measured["onnx"][images]) == {
            "onnxruntime", "onnxruntime without optimizations", "onnx reference",
        }  # fmt: skip
    assert 20 <= measured["onnx"]["test"]["onnxruntime"]["samples"] <= 32
    assert measured["onnx"]["bank"]["onnx reference"]["samples"] == 8
    size = (A / "export/w4a4/student.onnx").stat().st_size
    assert measured["onnx"]["bytes"] == size

    run("report")
    table = (finished / "report/exports.md").read_text()
    assert len(table.splitlines()) == 2 + 3
    assert f"| W4A4 | ONNX | {size:,} |" in table
    page = (finished / "report/index.html").read_text()
    assert f"<td>{size:,}</td>" in page
    assert " ms" not in table + page

    full, student = [line for line in printed_report().splitlines() if "ms" in line]
    assert re.search(r"full precision +│ ONNX Runtime +│ +[\d.]+ ms +│", full)
    assert re.search(r"W4A4 +│ ONNX Runtime +│ +[\d.]+ ms \([\d.]+x\) │ +[\d.]+ ms \(", student)

    # Latency is that of one student: another one does not show it.
    before = (M / "export/w4a4.json").read_bytes()
    export_as("program")
    assert "ONNX Runtime" not in printed_report()
    (M / "export/w4a4.json").write_bytes(before)  # as DVC does with what it has in its cache
    assert "ONNX Runtime" in printed_report()


def test_a_deployed_file_is_used_without_this_package(finished):
    export_as("onnx")
    folder = A / "export/w4a4"
    card = read_json(folder / "card.json")
    assert card["sha256"] == sha256_of(folder / "student.onnx")
    student = hast.load(folder)
    spec, _ = spec_and_plan(student)
    batches = open_batches(DatasetConfig(name="digits"), "test", spec, at_most=32)
    with torch.no_grad():
        right = torch.cat([student(x).argmax(1) == labels for x, labels in batches])
    # Both programs may round a value otherwise.
    rounding = 1 - card["agreement"] + 1e-6
    assert card["top1"] == pytest.approx(right.float().mean().item(), abs=rounding)
    codes = torch.randint(256, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    for number, picture in enumerate(codes):
        Image.fromarray(picture.numpy().astype("uint8")).save(f"{number}.png")
    with torch.no_grad():
        logits = student(spec.normalize(codes[:, None] / 255))
    alone = (
        "import sys, runpy\n"
        "for name in ('hast', 'torch', 'zarr', 'pydantic'):\n"
        "    sys.modules[name] = None\n"
        f"sys.argv = ['predict.py', '0.png', '1.png']\n"
        f"runpy.run_path('{folder}/predict.py', run_name='__main__')\n"
    )
    printed = python("-c", alone).stdout.splitlines()
    shares = logits.softmax(1)
    assert len(printed) == 2
    for number, line in enumerate(printed):
        best = int(shares[number].argmax())
        name, share = re.fullmatch(rf"{number}\.png: (.+), ([\d.]+)%", line).groups()
        assert name == (spec.class_names[best] if spec.class_names else f"class {best}")
        assert float(share) == pytest.approx(100 * shares[number, best].item(), abs=1)


def printed_report() -> str:
    """What `hast report` prints in a terminal of usual width."""
    return run_hast("report", COLUMNS="100").stdout


def test_an_export_whose_latency_cannot_be_measured_is_whole_and_one_too_far_away_fails(finished):
    Path(".timings").mkdir(exist_ok=True)
    Path(".timings/latency").write_text("no folder")
    with pytest.warns(HastWarning, match="w4a4: latency is not known: .*File exists"):
        export_as("onnx")
    assert (A / "export/w4a4/student.onnx").is_file()
    assert "ONNX Runtime" not in printed_report()
    with refused(r"of \d+ images of bank.*max_mean_difference"):
        export_as("onnx", max_mean_difference=0.0)


PLAN = QuantizationPlan(placement="inputs", weights={"fc": 8}, activations={"fc": 8})


@pytest.mark.parametrize(
    ("parity", "figures"),
    [
        (Parity(30000, 29999 / 30000, 0.1, 0.1, 1.0), r"answer on 99\.9967% of .* least 100% is"),
        (Parity(30000, 1.0, 2e-5, 1.23e-5, 1.0), r"by 1\.23e-05 standard .* at most 1e-05 is all"),
    ],
)
def test_the_figure_that_decides_is_not_rounded_away(parity, figures):
    config = ExportConfig(min_agreement=1.0, max_mean_difference=1e-5)
    with refused(figures):
        check(Compared("onnx", "onnxruntime", "bank", parity), config, PLAN)


def test_the_command_exports_a_student_and_a_packed_checkpoint(finished):
    shown = run_hast("export", STUDENT, "packed").output
    size = sum(p.stat().st_size for p in (finished / "packed").iterdir())
    assert f"packed: {size:,} bytes" in shown
    shown = run_hast("export", "packed", "student.pt2", "--bank", str(A / "bank")).output
    assert re.search(r"torch: 100.00% of 24 answers equal", shown)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(torch.export.load("student.pt2").module()(x), hast.load("packed")(x))
    shown = run_hast("export", "packed", "student.onnx", "--inputs", "bytes").output
    assert (finished / "student.onnx").is_file()
    assert re.search(r"student.onnx +│ ONNX Runtime +│ +[\d.]+ ms \([\d.]+x\) │", shown)


def test_a_file_that_is_too_far_from_its_student_leaves_what_was_there(finished):
    Path("kept.onnx").write_text("an earlier file")
    for_runtime = ("--target", "onnxruntime", "--bank", str(A / "bank"))
    with refused(r"at most 0 is allowed \(max_mean_difference\)"):
        run_hast("export", STUDENT, "kept.onnx", *for_runtime, "--max-mean-difference", "0")
    assert Path("kept.onnx").read_text() == "an earlier file"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing", "x.onnx"), "nothing: no such folder"),
        ((STUDENT, "x.tflite"), "must end with .onnx or .pt2"),
        ((STUDENT, "x.onnx", "--target", "npu"), "target must be one of"),
        ((STUDENT, "x.pt2", "--target", "generic"), "--target is of ONNX files"),
        ((STUDENT, "x.onnx", "--target", "pt2e"), "'pt2e' reads no ONNX; export NAME.pt2 for it"),
        ((STUDENT, "x.onnx", "--target", "onnxruntime"), "needs some images of the bank"),
        ((STUDENT, "x.pt2", "--inputs", "jpeg"), "inputs: Input should be 'normalized'"),
        ((STUDENT, "x.onnx", "--target", "program"), "--target must be one of generic, onnx"),
        ((STUDENT, "params.yaml/x.onnx"), "x.onnx: cannot be written"),
        ((STUDENT, "/proc/packed"), "/proc/packed: cannot be written"),
    ],
)
def test_wrong_arguments_are_one_clear_line(finished_run, monkeypatch, arguments, message):
    monkeypatch.chdir(finished_run)
    with refused(message):
        run_hast("export", *arguments)


def test_weights_that_a_processor_may_saturate_on_are_named_where_a_file_is_too_far_away():
    compared = Compared("onnx", "onnxruntime", "bank", Parity(100, 0.5, 1.0, 1.0, 1.0))
    plan = PLAN.model_copy(update={"target": "onnxruntime"})
    with refused(r"saturate on weights of 8 bits, take 7$"):
        check(compared, ExportConfig(), plan)
