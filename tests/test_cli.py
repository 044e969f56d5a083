import json
from pathlib import Path

import pytest
import torch
from banks import TEACHER, noise_bank
from conftest import cli, files, python
from rich.console import Console

import hast
from hast.bank.tools import save_bank
from hast.config.recipes import recipe_of
from hast.config.section import read_yaml
from hast.files.tables import Timing
from hast.report.tables import markdown_table, results_table, timings_table

RESULTS = {
    "fp32": {"top1": 0.94, "agreement": 1.0, "size_bytes": 4000, "samples": 100},
    "w4a4": {"top1": 0.9234, "agreement": 0.95, "size_bytes": 500, "top1_before_finetuning": 0.9},
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_help_and_version(hast_here):
    assert "bank" in cli("--help").stdout
    for asked in ("version", "--version"):
        assert hast_here(asked).stdout.strip() == hast.__version__
    assert "Usage" in hast_here(code=2).stdout


def test_the_command_line_starts_without_what_only_opens_images():
    code = "import sys, hast.cli.main; print({'sklearn', 'torchvision', 'onnx'} & {*sys.modules})"
    assert python("-c", code).stdout.strip() == "set()"


def test_a_bank_is_verified_and_described(hast_here):
    save_bank(noise_bank(10, (1, 8, 8), bns_gap=torch.tensor([0.5, 0.25])), Path("bank"))
    assert "good, 10 samples" in hast_here("bank", "verify", "bank").stdout
    shown = json.loads(hast_here("bank", "info", "--json", "bank").stdout)
    assert shown["synthesis"] == {"seed": 0}
    assert shown["difficulty"]["mean"] == pytest.approx(0.5)
    table = hast_here("bank", "info", "bank").stdout
    assert "10 of 1 x 8 x 8, stored as uint8" in table
    assert TEACHER in table


def test_results_are_printed_or_their_absence_explained(hast_here, hast_refuses):
    assert "no such file; run `dvc repro`" in hast_refuses("results")
    Path("report").mkdir()
    Path("report/results.json").write_text(json.dumps(RESULTS))
    assert "92.34%" in hast_here("results").stdout
    assert json.loads(hast_here("results", "--json").stdout) == RESULTS


def test_the_table_is_markdown():
    assert markdown_table(RESULTS).splitlines()[2:] == [
        "| full precision | 94.00% |  | 100.00% | 4,000 | 1.0x |",
        "| W4A4 | 92.34% | 90.00% | 95.00% | 500 | 8.0x |",
    ]


def printed(table) -> str:
    with (console := Console(width=100)).capture() as captured:
        console.print(table)
    return captured.get()


def test_wall_times_tell_what_was_built_now():
    timings = [Timing("teacher", 5.0, finished=10.0), Timing("report", 1.5, finished=99.0)]
    lines = printed(timings_table(timings, since=50.0)).splitlines()
    (teacher,) = [x for x in lines if "teacher" in x]
    (report,) = [x for x in lines if "report" in x]
    assert "up to date" in teacher
    assert "up to date" not in report
    assert any("built now" in x and "1.5" in x for x in lines)
    assert "100 images" in printed(results_table(RESULTS))


def test_a_preset_replaces_the_params_file_and_keeps_the_old_one(hast_here):
    Path("params.yaml").write_text("mine\n")
    options = ["--recipe", "best", "--weights", "teacher.safetensors", "--data-root", "images"]
    hast_here("preset", "cifar10_resnet20", *options)
    assert Path("params.yaml.old").read_text() == "mine\n"
    written = read_yaml(Path("params.yaml"))
    assert written["teacher"]["weights"] == "teacher.safetensors"
    assert written["dataset"]["root"] == "images"
    assert recipe_of(written) == "best"


def test_a_recipe_is_written_over_the_params_file(hast_here, hast_refuses):
    path = Path("params.yaml")
    assert "params.yaml: no such file" in hast_refuses("recipe", "best")
    path.write_text("quantize: {learning_rate: 0.5} # mine\n")
    assert "quantize.learning_rate: 0.5 -> 0.001" in hast_here("recipe", "best").stdout
    assert recipe_of(read_yaml(path)) == "best"
    assert "# mine" in path.read_text()


@pytest.mark.parametrize(
    ("command", "word", "message"),
    [
        ("preset", "cifar", "preset must be one of digits"),
        ("recipe", "worst", "recipe must be one of hast, best, got 'worst'"),
    ],
)
def test_an_unknown_word_ends_in_one_line_and_changes_nothing(hast_refuses, command, word, message):
    Path("params.yaml").write_text("quantize: {} # mine\n")
    assert message in hast_refuses(command, word)
    assert files(Path()) == {"params.yaml": b"quantize: {} # mine\n"}
