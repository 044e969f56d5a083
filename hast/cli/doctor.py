"""Is everything there that a run needs? Each answer says what was found and what to do."""

import getpass
import os
import platform
import shutil
import urllib.request
from collections.abc import Iterator
from configparser import ConfigParser
from contextlib import chdir
from importlib.metadata import requires
from pathlib import Path
from typing import Literal, NamedTuple

import psutil
import torch
from packaging.requirements import Requirement

from hast.bank.cluster import check_shared_memory
from hast.cli.new import FILES
from hast.cli.pipeline import check_repository
from hast.engine.engine import bf16_is_fast, select_device
from hast.engine.machine import __version__, changed_files, device_name, git, installed_version
from hast.errors import InputError, first_line
from hast.flows.lock import is_torn

State = Literal["ok", "note", "problem"]
_EXTRAS = ("pipeline", "report", "onnx", "zoo")
_SECONDS = 2.0  # to wait for a server


class Check(NamedTuple):
    """One line. A `note` is worth knowing; a `problem` will stop a run."""

    name: str
    state: State
    found: str
    advice: str = ""


def examine(project: Path) -> Iterator[Check]:
    """All checks, one after the other.

    Args:
        project: folder of the pipeline.
    """
    yield Check("python", "ok", platform.python_version())
    yield _torch()
    yield from _packages()
    yield _device()
    yield _compiler()
    yield _git(project)
    yield _dvc(project)
    yield from _dvc_at_work(project)
    yield from _surroundings()
    yield _prefect()
    disk, memory = shutil.disk_usage(project).free, psutil.virtual_memory().available
    yield _room("disk", disk, 5e9, "problem", "free some, or move the cache: dvc cache dir PATH")
    yield _room("memory", memory, 2e9, "note", "set smaller batch_size values")


def _torch() -> Check:
    try:
        import torchvision
    except Exception as error:  # a torchvision that does not fit this torch raises anything
        found = f"torchvision cannot be imported ({first_line(error)})"
        return Check("torch", "problem", found, "install the torchvision that fits this torch")
    return Check("torch", "ok", f"torch {torch.__version__}, torchvision {torchvision.__version__}")


def _packages() -> Iterator[Check]:
    """Installed versions against those that hast asks for. Prefect does not start with some newer
    ones, or starts and schedules nothing."""
    missing: dict[str, None] = {}  # extras
    for wanted in map(Requirement, requires("hast") or ()):
        asking = [e for e in _EXTRAS if wanted.marker and wanted.marker.evaluate({"extra": e})]
        found = installed_version(wanted.name)
        if found is None:
            missing |= dict.fromkeys(asking)
        elif not wanted.specifier.contains(found, prereleases=True):
            advice = f"pip install '{wanted.name}{wanted.specifier}'"
            yield Check(wanted.name, "problem", found, advice)
    if missing:
        advice = f"pip install 'hast[{','.join(missing)}]' where you need them"
        yield Check("extras", "note", f"not installed: {', '.join(missing)}", advice)
    else:
        yield Check("extras", "ok", ", ".join(_EXTRAS))


def _device() -> Check:
    try:
        device = select_device(os.environ.get("HAST_DEVICE", "auto"))
    except InputError as error:
        return Check("device", "problem", str(error), "unset HAST_DEVICE, or set it to cpu")
    found = f"{device}: {device_name(device)}"
    if device.type == "cpu" and not bf16_is_fast(device):
        advice = "no fast bf16 on this CPU: long loops run in fp32, much slower"
        return Check("device", "note", found, advice)
    return Check("device", "ok", found)


def _compiler() -> Check:
    name = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if name:
        return Check("compiler", "ok", name)
    advice = "install g++: without it, long loops run uncompiled, several times slower"
    return Check("compiler", "note", "no C++ compiler for torch.compile", advice)


def _git(project: Path) -> Check:
    if shutil.which("git") is None:
        return Check("git", "problem", "not installed", "install git: DVC and provenance need it")
    try:
        check_repository(project)
    except InputError:
        return Check("git", "problem", "no repository", "git init && git add -A && git commit")
    commit = git("rev-parse", "--short", "HEAD", folder=project)
    if commit is None:
        return Check("git", "note", "no commit here", "git add -A && git commit")
    changed = changed_files(project)
    if changed:
        found = f"{commit}, {len(changed)} changed file(s)"
        return Check("git", "note", found, "commit, so that a result has a name")
    return Check("git", "ok", commit)


def _dvc(project: Path) -> Check:
    version = installed_version("dvc")
    if version is None:
        return Check("dvc", "problem", "not installed", "pip install 'hast[pipeline]'")
    if not (project / ".dvc").is_dir():
        return Check("dvc", "problem", f"{version}, no project here", "run this where dvc.yaml is")
    remotes = sum("remote" in name for name in _dvc_config(project).sections())
    if not remotes:
        advice = "dvc remote add -d NAME URL, to share results"
        return Check("dvc", "note", f"{version}, no remote", advice)
    return Check("dvc", "ok", f"{version}, {remotes} remote(s)")


def _dvc_config(project: Path) -> ConfigParser:
    config = ConfigParser()
    config.read([project / ".dvc/config", project / ".dvc/config.local"])
    return config


def _dvc_at_work(project: Path) -> Iterator[Check]:
    """What DVC would stop at, or a stage after it."""
    config = _dvc_config(project)
    if "symlink" in config.get("cache", "type", fallback=""):
        advice = "dvc config cache.type reflink,copy; dvc checkout --relink"
        yield Check("cache", "problem", "links out of the project, which a bank refuses", advice)
    with chdir(project):
        if is_torn():
            advice = "`hast run` removes them"
            yield Check("dvc lock", "note", "notes in .dvc/tmp/rwlock, torn by a kill", advice)
    for name, file in FILES.items():
        own = project / name
        if own.exists() and own.read_bytes() != file.read_bytes():
            advice = f"compare it with {file}"
            yield Check(name, "note", f"not that of hast {__version__}", advice)


def _surroundings() -> Iterator[Check]:
    """What a service account or a container may lack."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        advice = "`hast run` does without; for `dvc` set USER"
        yield Check("user", "note", "no name for this account", advice)
    home = Path(os.path.expanduser("~"))
    if not os.access(home, os.W_OK):
        advice = "`hast flow` keeps what Prefect has in .prefect; set HOME for other programs"
        yield Check("home", "note", f"{home} cannot be written", advice)
    try:
        check_shared_memory()
    except InputError as error:
        yield Check("processes", "note", str(error).partition("; ")[0], "one process works")


def _prefect() -> Check:
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        advice = "set PREFECT_API_URL for scheduled runs; `hast flow` does without"
        return Check("prefect", "note", "no server configured", advice)
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=_SECONDS) as answer:
            return Check("prefect", "ok", f"{url} answers {answer.status}")
    except (OSError, ValueError) as error:
        advice = "start the server, or mend PREFECT_API_URL"
        return Check("prefect", "problem", f"{url} does not answer ({error})", advice)


def _room(name: str, free: int, enough: float, state: State, advice: str) -> Check:
    """Of what there should be `enough` bytes; else `state` and `advice`."""
    found = f"{free / 1e9:.1f} GB free"
    return Check(name, state, found, advice) if free < enough else Check(name, "ok", found)
