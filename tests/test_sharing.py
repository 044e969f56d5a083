"""A bank that one team made serves another: two Git repositories and a DVC remote between them."""

import shutil
from contextlib import chdir
from pathlib import Path

import pytest
import stage_runs as runs
from conftest import commit_all, copy_project, dvc, executed, files, git, python, set_params

from hast.bank.tools import filter_bank


@pytest.fixture(scope="module")
def owner(tmp_path_factory) -> Path:
    """The repository of a team that has made a bank and pushed it."""
    project = copy_project(tmp_path_factory.mktemp("owner"))
    with chdir(project):
        runs.run_bank()
    dvc(project, "commit", "--force", "--with-deps", "synthesize")
    dvc(project, "remote", "add", "-d", "store", str(tmp_path_factory.mktemp("remote")))
    dvc(project, "remote", "modify", "store", "verify", "true")
    dvc(project, "push", "synthesize")
    git(project, "add", "-f", "dvc.lock")
    commit_all(project, "a bank")
    return project


def test_dvc_get_fetches_a_bank_anywhere(owner, tmp_path):
    dvc(tmp_path, "get", str(owner), "artifacts/bank", "-o", "bank")
    assert files(tmp_path / "bank") == files(owner / "artifacts/bank")


def test_an_imported_bank_takes_the_place_of_synthesis(owner, tmp_path, monkeypatch):
    """Same teacher, imported bank: no generator is trained and nothing synthesized."""
    other = copy_project(tmp_path / "other")
    dvc(other, "import", str(owner), "artifacts/bank", "-o", "shared-bank")

    imported = {"bank.source": "shared-bank", "calibrate.images": "bank"}
    set_params(other, imported | {"bit_widths": ["w4a4"], "synthesize.steps": 10**9})  # endless
    dvc(other, "repro", "synthesize")
    assert files(other / "artifacts/bank") == files(owner / "artifacts/bank")
    assert [p.name for p in (other / "artifacts/generator").iterdir()] == ["not-trained.json"]
    monkeypatch.chdir(other)
    plan = "from hast.flows.plan import stages_in_order as all; print(*(s.name for s in all()))"
    names = python("-c", plan, cwd=other).stdout.split()
    assert {"synthesize", "report"} < set(names)
    assert "shared-bank.dvc" not in names
    runs.run("answers")
    runs.run_student()
    runs.run("report")
    dvc(other, "plots", "show", "--out", str(tmp_path / "plots"))

    # A new version of the bank is noticed, and only what depends on it runs again.
    shared = other / "shared-bank"
    filter_bank(shared, tmp_path / "smaller", count=16)
    shutil.rmtree(shared)
    shutil.copytree(tmp_path / "smaller", shared)
    assert executed(dvc(other, "repro", "synthesize")) == {"inputs", "synthesize"}
    assert files(other / "artifacts/bank") == files(shared)
