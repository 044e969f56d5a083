"""The whole pipeline in its smallest real form, through real DVC in a real Git repository."""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, copy_project, dvc, edit_params, git, python
from ruamel.yaml import YAML

from hast.files.tables import read_tsv

WIDTHS = ["w4a4", "w3a3"]
MATRIX = ("calibrate", "reconstruct", "score", "quantize", "evaluate", "export")
ALWAYS = {"inputs"}  # looks at files that parameters name
STAGES = (
    ALWAYS
    | {"teacher", "generator", "synthesize", "answers", "sensitivity", "report"}
    | {f"{stage}@{width}" for stage in MATRIX for width in WIDTHS}
)


def all_widths(stage: str) -> set[str]:
    return {f"{stage}@{width}" for width in WIDTHS}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A project after its first `make run`."""
    project = copy_project(tmp_path_factory.mktemp("built"))
    (project / "first.log").write_text(make_run(project))
    return project


def make_run(project: Path) -> str:
    done = python("-m", "stages.pipeline", cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def project(built, tmp_path) -> Path:
    """A private copy of the built project."""
    return Path(shutil.copytree(built, tmp_path / "project", symlinks=True))


def changed(project: Path) -> set[str]:
    """Stages that DVC itself says must run again."""
    return set(json.loads(dvc(project, "status", "--json"))) - ALWAYS


def executed(output: str) -> set[str]:
    ran = {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}
    assert ran >= ALWAYS
    return ran - ALWAYS


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line with which a command ended."""
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("error:")]
    return line


def artifacts(project: Path) -> dict[str, str]:
    head = git(project, "rev-parse", "HEAD").strip().encode()
    return {
        # The page names the commit, and each copy of the project makes its own.
        str(path.relative_to(project)): hashlib.sha256(
            path.read_bytes().replace(head, b"HEAD")
        ).hexdigest()
        for folder in ("artifacts", "metrics", "plots", "report")
        for path in sorted((project / folder).rglob("*"))
        if path.is_file()
    }


def test_the_first_run_builds_every_stage_and_prints_the_table(built):
    output = (built / "first.log").read_text()
    assert executed(output) == STAGES - ALWAYS
    for text in ("full precision", "W4A4", "W3A3", "agreement", "Wall time", "report/results.md"):
        assert text in output
    for stage in STAGES:
        assert stage in output.partition("Wall time")[2]


def test_a_second_run_rebuilds_nothing(project):
    before = artifacts(project)
    output = make_run(project)
    assert executed(output) == set()
    assert "up to date" in output
    assert artifacts(project) == before
    assert changed(project) == set()


def test_two_builds_give_identical_artifacts(built, tmp_path):
    other = copy_project(tmp_path / "other")
    dvc(other, "repro")
    assert artifacts(other) == artifacts(built)


def test_two_builds_in_the_default_formats_are_identical_and_each_shows_its_latency(
    built, tmp_path
):
    formats = YAML(typ="safe").load(ROOT / "params.yaml")["export"]["formats"]
    assert {"onnx", "program"} <= set(formats)
    builds = []
    for name in ("here", "elsewhere/and-deeper"):
        copy = Path(shutil.copytree(built, tmp_path / name, symlinks=True))
        edit_params(copy, lambda p: p["export"].update(formats=formats))
        edit_params(copy, lambda p: p.update(bit_widths=["w4a4"]))
        output = make_run(copy)
        assert executed(output) == {"export@w4a4", "report"}
        assert "ONNX Runtime on this machine's CPU" in output
        assert re.search(r"full precision in ONNX +│ +[\d.]+ ms", output)
        builds.append(artifacts(copy))
    assert builds[0] == builds[1]
    assert {"student.onnx", "student.pt2"} <= {Path(name).name for name in builds[0]}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("teacher.training.epochs", 2, {"teacher"}),
        ("generator.steps", 4, {"generator"}),
        ("synthesize.gamma", 1.0, {"synthesize"}),
        ("sensitivity.samples", 8, {"sensitivity"}),
        ("layers.first_last_bits", 8, all_widths("calibrate")),
        ("calibrate.range_momentum", 0.5, all_widths("calibrate")),
        ("quantize.alignment_weight", 500.0, all_widths("quantize")),
        ("dataset.root", "elsewhere", {"answers"} | all_widths("evaluate") | all_widths("export")),
        ("bit_widths", ["w3a3", "w4a4"], {"report"}),
    ],
)
def test_a_parameter_rebuilds_only_the_stages_that_depend_on_it(project, key, value, expected):
    def change(params):
        *path, last = key.split(".")
        for part in path:
            params = params[part]
        params[last] = value

    edit_params(project, change)
    assert changed(project) == expected | {"report"}  # which lists all parameters


def test_an_edited_sentence_rebuilds_nothing_and_edited_maths_what_uses_it(project):
    path = project / "hast/math/distillation.py"
    source = path.read_text()
    path.write_text(source.replace('"""', '"""In other words: ', 1) + "\n# The end.\n")
    dvc(project, "repro", "inputs")
    assert changed(project) == set()

    path.write_text(source.replace("return temperature**2 *", "return temperature**3 *"))
    before = artifacts(project)
    forced = ("repro", "--single-item", "--force", "sensitivity")
    line = error_of(python("-m", "dvc", *forced, cwd=project))
    assert "artifacts/code/sensitivity.json stands for; run `dvc repro inputs`" in line
    dvc(project, "checkout", "sensitivity")
    assert artifacts(project) == before

    dvc(project, "repro", "inputs")
    assert changed(project) == {"sensitivity"} | all_widths("quantize") | all_widths("reconstruct")


def test_another_bit_width_trains_one_student_and_touches_nothing_else(project):
    before = artifacts(project)
    edit_params(project, lambda p: p["bit_widths"].append("w5a5"))
    ran = executed(dvc(project, "repro"))
    assert ran == {f"{stage}@w5a5" for stage in MATRIX} | {"report"}
    after = artifacts(project)
    assert {n for n in before if after[n] != before[n]} <= {n for n in before if "report/" in n}
    assert "W5A5" in (project / "report/results.md").read_text()


def test_bits_are_allocated_by_sensitivity_within_the_budget(project):
    def change(params):
        params["bit_widths"] = ["w4a4"]
        params["sensitivity"].update(enabled=True, samples=8)
        params["layers"].update(average_weight_bits=3.0, first_last_bits=8)

    edit_params(project, change)
    dvc(project, "repro", "calibrate")
    layers = read_tsv(project / "artifacts/layers/w4a4.tsv")
    assert [layers[0]["weight_bits"], layers[-1]["weight_bits"]] == ["8", "8"]
    inner = [(int(x["parameters"]), int(x["weight_bits"])) for x in layers[1:-1]]
    average = sum(n * b for n, b in inner) / sum(n for n, _ in inner)
    assert 2 <= average <= 3
    assert len({b for _, b in inner}) > 1
    card = json.loads((project / "artifacts/calibrated/w4a4/card.json").read_text())
    assert list(card["plan"]["weights"].values()) == [int(x["weight_bits"]) for x in layers]


def test_metrics_and_plots_are_dvcs_own(built):
    metrics = json.loads(dvc(built, "metrics", "show", "--json"))[""]["data"]
    rows = {Path(path).stem: row["data"] for path, row in metrics.items()}
    assert set(rows) == {"fp32", "w4a4", "w3a3"}
    assert {"top1", "drop", "agreement", "compression"} <= set(rows["w4a4"])
    html = dvc(built, "plots", "show", "--out", "plots-page").strip().removeprefix("file://")
    page = Path(html).read_text()
    names = ("plots_bns", "plots_quantize_w4a4", "plots_difficulty_w3a3", "report_accuracy")
    assert all(f'id = "{name}_tsv"' in page for name in names)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("quantize", "steps", -1, "params.yaml: quantize.steps: Input should be greater than"),
        ("teacher", "weights", "nothing.pth", "nothing.pth: no such checkpoint file"),
    ],
)
def test_bad_input_ends_with_one_clear_line_and_loses_nothing(
    project, section, key, value, message
):
    before = artifacts(project)
    edit_params(project, lambda p: p[section].update({key: value}))
    assert message in error_of(python("-m", "stages.pipeline", cwd=project))
    survivors = {n: h for n, h in artifacts(project).items() if not re.search("teacher|inputs", n)}
    assert survivors.items() <= before.items()
    assert survivors.keys() == {n for n in before if not re.search("teacher|inputs", n)}


def test_a_clone_without_lock_file_and_remote_is_a_plain_start(built, tmp_path):
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(built), "clone")
    assert git(ROOT, "ls-files", "dvc.lock") == ""
    assert changed(clone) == STAGES - ALWAYS
    untracked = {line[3:] for line in git(built, "status", "--porcelain").splitlines()}
    assert untracked <= {"dvc.lock", "first.log", "plots-page/"}
