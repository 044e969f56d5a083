"""The whole pipeline in its smallest real form, through real DVC in a real Git repository."""

import hashlib
import json
import re
import shutil
from contextlib import chdir
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT, copy_project, dvc, executed, files, git, python, set_params
from dvc.repo import Repo
from ruamel.yaml import YAML
from stage_runs import run_all

MATRIX = ("calibrate", "reconstruct", "score", "quantize", "evaluate", "export")
ALWAYS = {"inputs"}  # looks at files that parameters name
ONCE = {"teacher", "generator", "synthesize", "answers", "sensitivity", "report"}


def of_width(*widths: str) -> set[str]:
    return {f"{stage}@{width}" for stage in MATRIX for width in widths}


class Built(NamedTuple):
    """A project after `make run`."""

    project: Path
    printed: str
    artifacts: dict[str, str]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Built:
    project = begin(tmp_path_factory.mktemp("built") / "project")
    return Built(project, make_run(project), artifacts(project))


def begin(folder: Path) -> Path:
    """A project that exports in the default formats."""
    project = copy_project(folder)
    formats = YAML(typ="safe").load(ROOT / "params.yaml")["export"]["formats"]
    assert {"onnx", "program"} <= set(formats)
    set_params(project, {"export.formats": formats, "bit_widths": ["w4a4"]})
    return project


def make_run(project: Path, *target: str) -> str:
    return python("-m", "hast", "run", *target, cwd=project).stdout


@pytest.fixture
def project(built, tmp_path) -> Path:
    """A private copy of the built project."""
    return Path(shutil.copytree(built.project, tmp_path / "project", symlinks=True))


def changed(project: Path) -> set[str]:
    """Stages that DVC itself says must run again."""
    with chdir(project), Repo() as repo:
        return set(repo.status()) - ALWAYS


def error_of(project: Path, *command: str) -> str:
    """The one line with which a command ends."""
    done = python("-m", *command, cwd=project, code=None)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("error:")]
    return line


def artifacts(project: Path) -> dict[str, str]:
    head = git(project, "rev-parse", "HEAD").strip().encode()
    return {
        # The page names the commit, and each copy of the project makes its own.
        f"{folder}/{name}": hashlib.sha256(data.replace(head, b"HEAD")).hexdigest()
        for folder in ("artifacts", "metrics", "plots", "report")
        for name, data in files(project / folder).items()
    }


def test_the_first_run_builds_every_stage_and_prints_the_table(built):
    stages = ONCE | of_width("w4a4")
    assert executed(built.printed) == stages | ALWAYS
    for text in ("full precision", "W4A4", "agreement", "Wall time", "report/results.md"):
        assert text in built.printed
    assert "ONNX files on this machine's CPU" in built.printed
    assert re.search(r"full precision +│ ONNX Runtime +│ +[\d.]+ ms", built.printed)
    for stage in stages | ALWAYS:
        assert stage in built.printed.partition("Wall time")[2]


def test_a_run_after_that_rebuilds_nothing(built):
    output = make_run(built.project)
    assert executed(output) == ALWAYS
    assert "up to date" in output
    assert artifacts(built.project) == built.artifacts
    assert changed(built.project) == set()


def test_another_bit_width_trains_one_student_and_touches_nothing_else(built, project):
    set_params(project, {"bit_widths": ["w4a4", "w3a3"]})
    assert changed(project) == of_width("w3a3") | {"report"}
    printed = make_run(project, "calibrate@w3a3")
    assert executed(printed) == {"calibrate@w3a3"} | ALWAYS
    assert built.artifacts.items() <= artifacts(project).items()
    assert changed(project) == of_width("w3a3") - executed(printed) | {"report"}


def test_stages_in_one_process_elsewhere_write_identical_artifacts(built, tmp_path, monkeypatch):
    other = begin(tmp_path / "elsewhere/and-deeper")
    monkeypatch.chdir(other)
    run_all(["w4a4"])
    assert artifacts(other) == built.artifacts
    assert {"student.onnx", "student.pt2"} <= {Path(name).name for name in built.artifacts}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("teacher.training.epochs", 2, {"teacher"}),
        ("generator.steps", 4, {"generator"}),
        ("synthesize.gamma", 1.0, {"synthesize"}),
        ("sensitivity.samples", 8, {"sensitivity"}),
        ("layers.first_last_bits", 8, {"calibrate@w4a4"}),
        ("calibrate.range_momentum", 0.5, {"calibrate@w4a4"}),
        ("quantize.alignment_weight", 500.0, {"quantize@w4a4"}),
        ("dataset.root", "elsewhere", {"answers", "evaluate@w4a4", "export@w4a4"}),
        ("bit_widths", ["w3a3", "w4a4"], of_width("w3a3")),
    ],
)
def test_a_parameter_rebuilds_only_the_stages_that_depend_on_it(built, key, value, expected):
    before = (built.project / "params.yaml").read_text()
    set_params(built.project, {key: value})
    found = changed(built.project)
    (built.project / "params.yaml").write_text(before)
    assert found == expected | {"report"}  # which lists all parameters


def test_an_edited_sentence_rebuilds_nothing_and_edited_maths_what_uses_it(project):
    path = project / "hast/math/distillation.py"
    source = path.read_text()
    path.write_text(source.replace('"""', '"""In other words: ', 1) + "\n# The end.\n")
    dvc(project, "repro", "inputs")
    assert changed(project) == set()

    path.write_text(source.replace("return temperature**2 *", "return temperature**3 *"))
    before = artifacts(project)
    line = error_of(project, "dvc", "repro", "--single-item", "--force", "sensitivity")
    assert "artifacts/code/sensitivity.json stands for; run `dvc repro inputs`" in line
    dvc(project, "checkout", "sensitivity")
    assert artifacts(project) == before

    dvc(project, "repro", "inputs")
    assert changed(project) == {"sensitivity", "quantize@w4a4", "reconstruct@w4a4"}


def test_metrics_and_plots_are_dvcs_own(built):
    metrics = json.loads(dvc(built.project, "metrics", "show", "--json"))[""]["data"]
    rows = {Path(path).stem: row["data"] for path, row in metrics.items()}
    assert set(rows) == {"fp32", "w4a4"}
    assert {"top1", "drop", "agreement", "compression"} <= set(rows["w4a4"])
    html = dvc(built.project, "plots", "show", "--out", "plots-page").strip()
    page = Path(html.removeprefix("file://")).read_text()
    names = ("plots_bns", "plots_quantize_w4a4", "plots_difficulty_w4a4", "report_accuracy")
    assert all(f'id = "{name}_tsv"' in page for name in names)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("quantize.steps", -1, "params.yaml: quantize.steps: Input should be greater than"),
        ("teacher.weights", "nothing.pth", "nothing.pth: no such checkpoint file"),
    ],
)
def test_bad_input_ends_with_one_clear_line_and_loses_nothing(project, key, value, message):
    before = artifacts(project)
    set_params(project, {key: value})
    assert message in error_of(project, "hast", "run")
    survivors = {n: h for n, h in artifacts(project).items() if not re.search("teacher|inputs", n)}
    assert survivors.items() <= before.items()
    assert survivors.keys() == {n for n in before if not re.search("teacher|inputs", n)}


def test_an_unpacked_archive_is_told_what_dvc_wants_before_any_work(built, tmp_path):
    clone = Path(shutil.copytree(built.project, tmp_path / "project", symlinks=True))
    shutil.rmtree(clone / ".git")
    line = error_of(clone, "hast", "run")
    assert "is in no Git repository, which DVC wants; run `git init && git add -A" in line
    assert "`dvc config --local core.no_scm true` to do without" in line
    dvc(clone, "config", "--local", "core.no_scm", "true")
    make_run(clone, "inputs")


def test_notes_that_a_killed_dvc_left_torn_are_removed_and_said(project):
    notes = project / ".dvc/tmp/rwlock"
    notes.write_text('{"write": {')
    assert (
        "JSON structure is corrupted"
        in python("-m", "dvc", "status", cwd=project, code=None).stderr
    )
    assert ".dvc/tmp/rwlock: torn" in python("-m", "hast", "run", "inputs", cwd=project).stderr
    dead = {"write": {str(project / "artifacts/inputs"): {"pid": 2**22, "cmd": "dvc"}}, "read": {}}
    notes.write_text(json.dumps(dead))
    make_run(project, "inputs")


def test_links_of_dvc_are_refused_before_any_work(project):
    dvc(project, "config", "cache.type", "symlink")
    set_params(project, {"generator.seed": 5})
    line = error_of(project, "hast", "run")
    assert line.startswith(
        "error: generator: artifacts/code/generator.json is a link into DVC's cache"
    )
    dvc(project, "config", "cache.type", "reflink,copy")
    dvc(project, "checkout", "--relink")
    make_run(project, "generator")


def test_a_clone_without_lock_file_and_remote_is_a_plain_start(built, tmp_path):
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(built.project), "clone")
    assert git(ROOT, "ls-files", "dvc.lock") == ""
    assert changed(clone) == ONCE | of_width("w4a4", "w3a3")  # as committed
    untracked = {line[3:] for line in git(built.project, "status", "--porcelain").splitlines()}
    assert untracked <= {"dvc.lock", "params.yaml", "plots-page/"}
