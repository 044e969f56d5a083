import io
import json
import subprocess
import sys

import pytest
import torch
from conftest import cli
from rich.console import Console

import hast
from hast.bank.record import BankCard
from hast.bank.writer import BankWriter
from hast.config.recipes import recipe_of
from hast.config.section import read_yaml
from hast.files.timings import Timing
from hast.report.tables import markdown_table, results_table, timings_table

RESULTS = {
    "w4a4": {"top1": 0.9234, "agreement": 0.95, "size_bytes": 500, "top1_before_finetuning": 0.9},
    "fp32": {"top1": 0.94, "agreement": 1.0, "size_bytes": 4000, "samples": 100},
}


@pytest.fixture
def bank(tmp_path, spec):
    card = BankCard(samples=10, spec=spec, teacher="f" * 64, synthesis={"gamma": 2.0})
    writer = BankWriter(tmp_path / "partial", card, 10)
    writer.write(slice(0, 10), torch.randn(10, 1, 8, 8), torch.arange(10))
    writer.seal(torch.linspace(0, 1, 10), torch.tensor([0.5, 0.25]))
    writer.publish(tmp_path / "bank")
    return tmp_path / "bank"


def test_help_and_version():
    done = cli("--help")
    assert done.returncode == 0
    assert "bank" in done.stdout
    for asked in ("version", "--version"):
        assert cli(asked).stdout.strip() == hast.__version__
    assert "Usage" in cli().stdout


def test_the_command_line_starts_without_what_only_opens_images():
    code = "import sys, hast.cli.main; print({'sklearn', 'torchvision', 'onnx'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_bank_is_verified_and_described(bank):
    assert "good, 10 samples" in cli("bank", "verify", str(bank)).stdout
    shown = json.loads(cli("bank", "info", "--json", str(bank)).stdout)
    assert shown["synthesis"] == {"gamma": 2.0}
    assert shown["difficulty"]["mean"] == pytest.approx(0.5)
    table = cli("bank", "info", str(bank)).stdout
    assert "10 of 1 x 8 x 8, stored as uint8" in table
    assert "f" * 64 in table


def test_a_damaged_bank_ends_with_one_line_and_exit_code_2(bank):
    (bank / "bank.zarr/labels/c/0").write_bytes(b"x")
    done = cli("bank", "verify", str(bank))
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "has 1 bytes but a chunk takes" in line


def test_results_are_printed_or_their_absence_explained(tmp_path):
    done = cli("results", cwd=tmp_path)
    assert done.returncode == 2
    assert "no results yet; run `dvc repro`" in done.stderr
    (tmp_path / "report").mkdir()
    (tmp_path / "report/results.json").write_text(json.dumps(RESULTS))
    assert "92.34%" in cli("results", cwd=tmp_path).stdout
    assert json.loads(cli("results", "--json", cwd=tmp_path).stdout) == RESULTS


def test_the_table_has_the_full_precision_network_first():
    lines = markdown_table(RESULTS).splitlines()
    assert lines[2] == "| full precision | 94.00% |  | 100.00% | 4,000 | 1.0x |"
    assert lines[3] == "| W4A4 | 92.34% | 90.00% | 95.00% | 500 | 8.0x |"


def printed(table) -> str:
    console = Console(width=100, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_wall_times_tell_what_was_built_now():
    timings = [Timing("teacher", 5.0, finished=10.0), Timing("report", 1.5, finished=99.0)]
    lines = printed(timings_table(timings, since=50.0)).splitlines()
    (teacher,) = [x for x in lines if "teacher" in x]
    (report,) = [x for x in lines if "report" in x]
    assert "up to date" in teacher
    assert "up to date" not in report
    assert any("built now" in x and "1.5" in x for x in lines)
    assert "100 images" in printed(results_table(RESULTS))


def test_a_preset_replaces_the_params_file_and_keeps_the_old_one(tmp_path):
    (tmp_path / "params.yaml").write_text("mine\n")
    options = ["--recipe", "best", "--weights", "teacher.safetensors", "--data-root", "images"]
    done = cli("preset", "cifar10_resnet20", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "params.yaml.old").read_text() == "mine\n"
    written = read_yaml(tmp_path / "params.yaml")
    assert written["teacher"]["weights"] == "teacher.safetensors"
    assert written["dataset"]["root"] == "images"
    assert recipe_of(written) == "best"


def test_a_recipe_is_written_over_the_params_file_or_nothing_is(tmp_path):
    path = tmp_path / "params.yaml"
    assert "params.yaml: no such file" in cli("recipe", "best", cwd=tmp_path).stderr
    path.write_text("quantize: {learning_rate: 0.5} # mine\n")
    done = cli("recipe", "worst", cwd=tmp_path)
    assert done.returncode == 2
    assert "recipe must be one of hast, best, got 'worst'" in done.stderr
    assert path.read_text() == "quantize: {learning_rate: 0.5} # mine\n"
    done = cli("recipe", "best", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "quantize.learning_rate: 0.5 -> 0.001" in done.stdout
    assert recipe_of(read_yaml(path)) == "best"
    assert "# mine" in path.read_text()


def test_an_unknown_preset_ends_in_one_line_and_changes_nothing(tmp_path):
    (tmp_path / "params.yaml").write_text("mine\n")
    done = cli("preset", "cifar", cwd=tmp_path)
    assert done.returncode == 2
    assert "preset must be one of digits" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["params.yaml"]
