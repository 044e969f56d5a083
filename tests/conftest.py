"""What tests share: a tiny residual classifier, its spec, and a copy of the project to run in."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import browser  # noqa: F401, a fixture
from own_network import FACTORY
from ruamel.yaml import YAML
from torch import nn

from hast.config.spec import ModelSpec
from hast.errors import InputError
from hast.networks.batch_norm import freeze
from hast.networks.digits_resnet import DigitsResNet

ROOT = Path(__file__).parent.parent

# A background job of a shell ignores Ctrl-C, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Every stage in its smallest real form.
TINY = {
    "teacher.training.epochs": 1, "teacher.training.batch_size": 256,
    "teacher.source_args.widths": [8, 16],
    "generator.steps": 3, "generator.width": 8, "generator.latent_dim": 4,
    "synthesize.samples": 24, "synthesize.batch_size": 8, "synthesize.steps": 3,
    "calibrate.batches": 2, "calibrate.batch_size": 8,
    "quantize.steps": 3, "quantize.batch_size": 8, "quantize.milestones": [2],
    "export.formats": [], "export.samples": 32, "export.reference_samples": 8,
    "export.min_agreement": 0.5,
}  # fmt: skip

WIDTHS = ["w4a4", "w2a3"]

# Those that take longest, the longest first: none is left to one worker alone at the end.
# While one worker is at the first, the other takes the next three, which share a Prefect server.
LONG = (
    "test_pipeline.py", "test_flow.py", "test_sweep.py", "test_workspace.py", "test_processes.py",
    "test_resume.py", "test_interrupt.py", "test_zoo.py", "test_distributed.py", "test_bundle.py",
    "test_sharing.py", "test_integer_graph.py", "test_installed.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: (*LONG, item.path.name).index(item.path.name))


@pytest.fixture(autouse=True)
def forget_written_modules(tmp_path_factory):
    """A module that a test wrote and imported does not stand in for the next one of its name."""
    before = set(sys.modules)
    yield
    written = str(tmp_path_factory.getbasetemp())
    for name in sys.modules.keys() - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(written):
            del sys.modules[name]


@contextmanager
def refused(message: str) -> Iterator[None]:
    """What is done inside ends with this message, in one line."""
    with pytest.raises(InputError, match=message) as caught:
        yield
    said = str(caught.value)
    del caught  # or the frames behind the error stay, with the files that they hold open
    assert "\n" not in said


def spec_of(shape: tuple[int, int, int], classes: int = 10, **others: Any) -> ModelSpec:
    """Of images (C, H, W), each channel with mean and deviation 0.5."""
    channels = shape[0]
    values = {"mean": (0.5,) * channels, "std": (0.5,) * channels} | others
    return ModelSpec(input_shape=shape, num_classes=classes, **values)


@pytest.fixture
def spec() -> ModelSpec:
    return spec_of((1, 8, 8))


@pytest.fixture
def teacher() -> nn.Module:
    """An untrained DigitsResNet whose BatchNorm statistics are not the trivial ones."""
    torch.manual_seed(0)
    network = DigitsResNet(widths=(8, 16))
    with torch.no_grad():
        for _ in range(20):
            network(torch.randn(64, 1, 8, 8))
    return freeze(network)


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, ["w4a4"])
    return tmp_path


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder with a network of the user's own."""
    (tmp_path / "mine.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """A folder in which all stages have run for both WIDTHS; to read only."""
    import stage_runs as runs

    folder = tmp_path_factory.mktemp("finished")
    write_params(folder, WIDTHS)
    with chdir(folder):
        runs.run_all(WIDTHS)
    return folder


@pytest.fixture
def finished(finished_run, tmp_path, monkeypatch) -> Path:
    """A copy of the finished run, to work in."""
    monkeypatch.chdir(shutil.copytree(finished_run, tmp_path / "run"))
    return tmp_path / "run"


@pytest.fixture
def begun(finished) -> Path:
    """A copy in which teacher and generator are made and nothing after them."""
    for name in ("bank", "calibrated", "students"):
        shutil.rmtree(finished / "artifacts" / name)
    for name in (".partial", "metrics", "report"):
        shutil.rmtree(finished / name)
    set_params(finished, {"bit_widths": ["w4a4"]})
    return finished


# Says where it is, and ends with its input.
_PREFECT = """
import sys
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

with prefect_test_harness(server_startup_timeout=240):
    print(PREFECT_API_URL.value(), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="session")
def prefect(tmp_path_factory) -> Iterator[dict[str, str]]:
    """The environment in which a process finds a real Prefect server, which takes long to start."""
    quiet = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with started("-c", _PREFECT, environment=quiet, **pipes) as server:
        url = next(line for line in iter(server.stdout.readline, "") if line.startswith("http"))
        home = str(tmp_path_factory.mktemp("prefect"))
        yield quiet | {"PREFECT_API_URL": url.strip(), "PREFECT_HOME": home}


def write_params(project: Path, widths: list[str]) -> None:
    """The parameters of the project in tiny sizes."""
    shutil.copy(ROOT / "params.yaml", project)
    set_params(project, TINY | {"bit_widths": widths})


def set_params(project: Path, values: dict[str, Any]) -> None:
    """Write values into params.yaml of a project, by names such as `quantize.steps`."""
    yaml, path = YAML(), project / "params.yaml"
    params = yaml.load(path)
    for name, value in values.items():
        *sections, key = name.split(".")
        reduce(getitem, sections, params)[key] = value
    yaml.dump(params, path)


def copy_project(target: Path) -> Path:
    """A git repository at `target` with the project's files as they are now and tiny sizes."""
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        file = ROOT / name
        if (file.is_file() or file.is_symlink()) and name != "dvc.lock":
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target / name, follow_symlinks=False)
    set_params(target, TINY)
    git(target, "init", "-q")
    commit_all(target, "start")
    return target


def git(folder: Path, *arguments: str) -> str:
    """Run Git as somebody, and return what it printed."""
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    command = ["git", *who, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def commit_all(folder: Path, message: str) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", message)


def python(
    *arguments: str, cwd: Path | None = None, code: int | None = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a Python process of its own, with `environment` beside that of this one; it ends with
    `code`, or with any where that is None."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False,
        env=child_environment() | environment,
    )  # fmt: skip
    assert code in (None, done.returncode), done.stdout + done.stderr
    return done


def started(
    *arguments: str, cwd: Path | None = None, environment: Mapping[str, str] = {}, **pipes: Any
) -> "subprocess.Popen[str]":
    """Start a Python process that leads a group of its own; `pipes` as of `subprocess.Popen`."""
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=cwd, text=True, start_new_session=True,
        env=child_environment() | dict(environment), **pipes,
    )  # fmt: skip


def dvc(project: Path, *arguments: str) -> str:
    """Run DVC in a project and return what it printed."""
    return python("-m", "dvc", *arguments, cwd=project).stdout


def executed(output: str) -> set[str]:
    """The stages that DVC says it has run."""
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}


def cli(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `hast` as a user does."""
    return python("-m", "hast", *arguments, cwd=cwd)


@pytest.fixture
def hast_here(monkeypatch, capsys) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `hast` in this process, where it starts at once; it ends with `code`."""
    from hast.cli.main import main

    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["hast", *arguments])
        monkeypatch.setattr(sys, "path", [*sys.path])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        assert (ended.value.code or 0) == code, shown.out + shown.err
        return subprocess.CompletedProcess(arguments, code, shown.out, shown.err)

    return run


@pytest.fixture
def hast_refuses(hast_here) -> Callable[..., str]:
    """The one line with which `hast` ends where what it was given is wrong."""

    def run(*arguments: str) -> str:
        (line,) = hast_here(*arguments, code=2).stderr.splitlines()
        assert line.startswith("error: ")
        return line

    return run


def child_environment() -> dict[str, str]:
    """The environment of this process with its Python first on the path, and this project."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"}


def files(folder: Path) -> dict[str, bytes]:
    """All that lies below a folder, by its name there."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def wait_for(condition: Callable[[], Any], seconds: float = 240, *, every: float = 0.02) -> Any:
    """What the condition says when it holds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come so far"
        time.sleep(every)
    return value
