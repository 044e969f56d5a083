"""`hast new`: a project of one's own, in which the pipeline runs for one's own network."""

import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from hast.cli.init import init
from hast.engine.machine import git, installed_version
from hast.errors import InputError, first_line

# What every project has, by its name there. Here they have others, which DVC and Git do not heed;
# in a clone of hast they are links to its own files.
_HERE = Path(__file__).parent / "project"
FILES = {
    "dvc.yaml": _HERE / "stages.yaml",
    "stage.sh": _HERE / "stage.sh",
    "prefect.yaml": _HERE / "prefect.yaml",
    ".dvcignore": _HERE / "dvcignore",
    ".gitignore": _HERE / "gitignore",
    "README.md": _HERE / "README.md",
}
SHARED = {".gitignore", "README.md"}  # a folder may have its own, which stay


def new(folder: Annotated[Path, typer.Argument(help="Folder to make.")], **options: Any) -> None:
    """Make a project for your own network, with Git and DVC; it has the arguments of `hast init`.

    \b
    hast new my-project torchvision:resnet18 --weights resnet18.pth --input-shape 3x224x224 \\
        --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
    cd my-project
    hast run
    """
    if installed_version("dvc") is None:
        raise InputError("dvc is not installed; run `pip install 'hast[pipeline]'`")
    present = [n for n in ("params.yaml", *FILES) if n not in SHARED and (folder / n).exists()]
    if present:
        raise InputError(f"{folder}: {present[0]} is there already; `hast init` changes a project")
    for name in ("weights", "data_root"):  # files are named as seen from the project
        if options[name] and Path(options[name]).exists():
            options[name] = os.path.relpath(options[name], folder)
    with _made(folder), chdir(folder):
        init(**options)
        for name, file in FILES.items():
            if name not in SHARED:
                shutil.copy(file, name)
        with open(".gitignore", "a", encoding="utf-8") as ignored:
            ignored.write(FILES[".gitignore"].read_text(encoding="utf-8"))
        readme = Path("README.md")
        if not readme.exists():
            text = FILES[readme.name].read_text(encoding="utf-8")
            readme.write_text(text.replace("NAME", Path.cwd().name), encoding="utf-8")
        _under_git_and_dvc()
    print(f"{folder} is a project of Git and DVC: there, commit what is new, and `hast run`")


def _options_of_init() -> None:
    """Let Typer see them, except for the file that `init` writes."""
    shown = [p for name, p in inspect.signature(init).parameters.items() if name != "out"]
    folder = next(iter(inspect.signature(new).parameters.values()))
    new.__signature__ = inspect.Signature([folder, *shown])  # type: ignore[attr-defined]


_options_of_init()


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """A folder that is not left behind empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for path in missing:
            if not any(path.iterdir()):
                path.rmdir()


def _under_git_and_dvc() -> None:
    if git("rev-parse", "--git-dir", folder=Path.cwd()) is None:
        _call("git", "init", "--quiet")
    inside = not Path(".git").exists()  # a folder of a larger repository
    if not Path(".dvc").exists():
        _call(sys.executable, "-m", "dvc", "init", "--quiet", *["--subdir"] * inside)


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"{' '.join(command[-3:])}: {first_line(OSError(done.stderr))}")
