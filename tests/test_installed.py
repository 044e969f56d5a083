"""The built wheel in an environment of its own, away from any clone: what `pip install` gives."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from zipfile import ZipFile

import pytest
from conftest import TINY, copy_project, git, python, set_params
from own_network import FACTORY, SPEC

from hast.config.section import read_yaml

# As if cron had started it: no environment is active, and no clone is in the way.
CRON = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/"), "OMP_NUM_THREADS": "1"}
OWN = {name: value for name, value in TINY.items() if not name.startswith("teacher")}
MAKE_WEIGHTS = "import mine, torch; torch.save(mine.build().state_dict(), 'mine.pth')"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = copy_project(folder / "source")
    python("-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), cwd=source)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def bin_folder(wheel) -> Path:
    """Of an environment with this wheel, which finds everything else where it is installed here."""
    environment = wheel.parent / "environment"
    python("-m", "venv", "--without-pip", str(environment))
    own = environment / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    (own / "others.pth").write_text(sysconfig.get_path("purelib"))  # but not what its .pth add
    pip = ("-m", "pip", "--python", str(environment), "install", "--quiet")
    python(*pip, "--ignore-installed", "--no-index", "--no-deps", str(wheel))
    return environment / "bin"


@pytest.fixture
def work(tmp_path) -> Path:
    """A folder with a network of one's own."""
    (tmp_path / "mine.py").write_text(FACTORY)
    return tmp_path


def call(*command: object, cwd: Path, code: int = 0) -> str:
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=CRON, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    return done.stdout


def new_project(bin_folder: Path, work: Path, folder: str) -> Path:
    call(bin_folder / "python", "-c", MAKE_WEIGHTS, cwd=work)
    arguments = ("python:mine:build", "--weights", "mine.pth", *SPEC, "--bits", "w4a4")
    call(bin_folder / "hast", "new", folder, *arguments, cwd=work)
    set_params(work / folder, OWN)
    return work / folder


def test_the_wheel_brings_one_package_and_all_that_a_project_has(wheel):
    names = ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"hast"}
    assert {"hast/stages/teacher.py", "hast/flows/pipeline.py"} <= {*names}
    assert {"hast/cli/project/stages.yaml", "hast/cli/project/gitignore"} <= {*names}


def test_a_project_of_ones_own_runs_with_nothing_but_the_wheel(bin_folder, work):
    project = new_project(bin_folder, work, ".")  # beside the code of the network
    assert "mine.py" in git(project, "status", "--short")
    printed = call(bin_folder / "hast", "run", "generator", cwd=project)
    assert "│ generator" in printed  # in the table of wall times
    assert "didn't change, skipping" in call(bin_folder / "hast", "run", "teacher", cwd=project)
    assert git(project, "check-ignore", "artifacts").strip() == "artifacts"

    refused = call(bin_folder / "hast", "new", ".", "torchvision:resnet18", cwd=project, code=2)
    assert "params.yaml is there already; `hast init` changes a project" in refused


def test_a_project_may_be_a_folder_of_a_larger_repository(bin_folder, work):
    git(work, "init", "--quiet")
    (work / "models/vision").mkdir(parents=True)
    (work / "models/vision/mine.py").write_text(FACTORY)
    (work / "models/vision/README.md").write_text("Ours.\n")
    (work / "models/vision/.gitignore").write_text("secret.env")
    project = new_project(bin_folder, work, "models/vision")
    assert (project / "README.md").read_text() == "Ours.\n"
    assert not (project / ".git").exists()
    ignored = ["secret.env", "artifacts/"]
    assert git(project, "check-ignore", *ignored).split() == ignored
    # Sweeps work in copies elsewhere, from which no way back leads here.
    weights = read_yaml(project / "params.yaml")["teacher"]["weights"]
    assert weights == str(work.resolve() / "mine.pth")
    call(bin_folder / "hast", "run", "inputs", cwd=project)


def test_dvc_finds_the_environment_that_nobody_activated(bin_folder, work):
    project = new_project(bin_folder, work, ".")
    dvc = (bin_folder / "python", "-m", "dvc", "repro")
    printed = call(*dvc, "inputs", cwd=project, code=255)
    assert "error: inputs: neither python nor .venv/bin/python has hast" in printed
    (project / ".venv").symlink_to(bin_folder.parent)
    call(*dvc, "inputs", cwd=project)


@pytest.mark.parametrize(
    ("weights", "folder", "message"),
    [
        ("nothing.pth", "made/here", "nothing.pth: no such checkpoint file"),
        ("mine.pth", "made/here", "made/here has no module 'mine', and none is installed"),
        ("mine.pth", "hidden", "is ignored by"),  # by Git, as DVC says
    ],
)
def test_a_project_that_cannot_be_made_leaves_nothing(weights, folder, message, bin_folder, work):
    git(work, "init", "--quiet")
    (work / ".gitignore").write_text("hidden/\n")
    (work / "hidden").mkdir()
    (work / "hidden/mine.py").write_text(FACTORY)
    call(bin_folder / "python", "-c", MAKE_WEIGHTS, cwd=work)
    arguments = ("new", folder, "python:mine:build", "--weights", weights, *SPEC)
    before = {path for path in work.rglob("*") if ".git" not in path.parts}
    assert message in call(bin_folder / "hast", *arguments, cwd=work, code=2)
    after = {path for path in work.rglob("*") if ".git" not in path.parts}
    assert {path for path in after - before if "__pycache__" not in path.parts} == set()
