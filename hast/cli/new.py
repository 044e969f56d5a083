"""`hast new`: a project of one's own, in which the pipeline runs for one's own network."""

import inspect
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Annotated, Any

import typer

from hast.cli.init import init
from hast.cli.pipeline import require_dvc
from hast.config.section import read_yaml, write_yaml
from hast.engine.machine import git
from hast.errors import InputError

# What every project has, by its name there. Here they have others, which DVC and Git do not heed;
# in a clone of hast they are links to its own files.
_HERE = Path(__file__).parent / "project"
FILES = {
    "dvc.yaml": _HERE / "stages.yaml",
    "stage.sh": _HERE / "stage.sh",
    "prefect.yaml": _HERE / "prefect.yaml",
}
_IGNORED = {".dvcignore": _HERE / "dvcignore", ".gitignore": _HERE / "gitignore"}
_PARAMS, _README = "params.yaml", "README.md"


def new(folder: Annotated[Path, typer.Argument(help="Folder to make.")], **options: Any) -> None:
    """Make a project for your own network, with Git and DVC; it has the arguments of `hast init`.

    \b
    hast new my-project torchvision:resnet18 --weights resnet18.pth --input-shape 3x224x224 \\
        --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
    cd my-project
    hast run
    """
    require_dvc()
    if shutil.which("git") is None:
        raise InputError("git is not installed, which DVC wants; install it")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a folder")
    for name in (_PARAMS, *FILES):
        if (folder / name).exists():
            raise InputError(f"{folder}: {name} is there already; `hast init` changes a project")
    with _undone_on_error(folder):
        init(out=folder / _PARAMS, **options)
        _as_seen_from(folder)
        for name, file in FILES.items():
            shutil.copy(file, folder / name)
        for name, file in _IGNORED.items():
            _append(folder / name, file.read_text(encoding="utf-8"))
        if not (folder / _README).exists():
            text = (_HERE / _README).read_text(encoding="utf-8")
            (folder / _README).write_text(text.replace("NAME", folder.resolve().name), "utf-8")
        _under_git_and_dvc(folder)
    print(f"{folder} is a project of Git and DVC: there, commit what is new, and `hast run`")


def _options_of_init() -> None:
    """Let Typer see them, except for the file that `init` writes."""
    shown = [p for name, p in inspect.signature(init).parameters.items() if name != "out"]
    folder = next(iter(inspect.signature(new).parameters.values()))
    new.__signature__ = inspect.Signature([folder, *shown])  # type: ignore[attr-defined]


_options_of_init()


@contextmanager
def _undone_on_error(folder: Path) -> Iterator[None]:
    """Whatever goes wrong inside, the folder is then as it was."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    before = {path: path.name in _IGNORED and path.read_bytes() for path in folder.iterdir()}
    try:
        yield
    except BaseException:
        for path in set(folder.iterdir()) - before.keys():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for path, content in before.items():
            if content is not False:
                path.write_bytes(content)
        for path in missing:
            path.rmdir()
        raise


def _as_seen_from(folder: Path) -> None:
    """Let params.yaml name files so that stages find them: those of the project by their place in
    it, others by their whole path, for sweeps work in copies of the project.

    Raises:
        InputError: the code of the network is not found from there.
    """
    file, project = folder / _PARAMS, folder.resolve()
    params = read_yaml(file)
    for section, name in (("teacher", "weights"), ("dataset", "root")):
        given = params[section].get(name)
        if given and Path(given).exists():
            path = Path(given).resolve()
            inside = path.is_relative_to(project)
            params[section][name] = str(path.relative_to(project) if inside else path)
    source = params["teacher"]["source"]
    write_yaml(file, params, comment=f"hast new {source}")
    kind, _, name = source.partition(":")
    top = name.partition(":")[0].partition(".")[0]
    here = str(Path.cwd())
    found_from = [str(project), *(p for p in sys.path if p not in ("", here))]
    if kind == "python" and PathFinder.find_spec(top, found_from) is None:
        raise InputError(
            f"python:{name}: {folder} has no module {top!r}, and none is installed; put its code"
            " there first, or install it"
        )


def _append(file: Path, text: str) -> None:
    own = file.read_text(encoding="utf-8") if file.exists() else ""
    file.write_text(own + "\n" * (own != "" and not own.endswith("\n")) + text, encoding="utf-8")


def _under_git_and_dvc(folder: Path) -> None:
    if git("rev-parse", "--git-dir", folder=folder) is None:
        _call("git", "init", "--quiet", cwd=folder)
    if not (folder / ".dvc").exists():
        inside = not (folder / ".git").exists()  # a folder of a larger repository
        _call(sys.executable, "-m", "dvc", "init", *["--subdir"] * inside, cwd=folder)


def _call(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[0]
        raise InputError(f"{command[-2]} {command[-1]}: {said}")
