"""The clone in which a flow run works: one run at a time, and parameters for that run alone."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock, Timeout
from prefect import get_run_logger
from ruamel.yaml import YAML

from hast.errors import InputError
from stages.entry import PARAMS
from stages.params import check_params

_TMP = Path(".dvc/tmp")  # DVC keeps it out of Git
_LOCK = _TMP / "hast-flow.lock"
_ORIGINAL = _TMP / "params.before-run.yaml"


@contextmanager
def workspace(overrides: Mapping[str, Any]) -> Iterator[None]:
    """Have the current folder's project for one run, with some parameters set to other values.

    params.yaml is as it was afterwards; where the run was killed, the next one puts it back.

    Args:
        overrides: by dotted name, such as {"quantize.alignment_weight": 500}.

    Raises:
        InputError: this is no DVC project, or an override names no parameter.
    """
    if not Path(".dvc").is_dir():
        raise InputError(f"{Path.cwd()} is no clone of the project (set HAST_WORKSPACE)")
    _TMP.mkdir(exist_ok=True)
    with _locked():
        if _ORIGINAL.exists():
            os.replace(_ORIGINAL, PARAMS)
        if overrides:
            changed = _changed(overrides)
            partial = _ORIGINAL.with_suffix(".partial")
            partial.write_bytes(PARAMS.read_bytes())
            os.replace(partial, _ORIGINAL)
            YAML().dump(changed, PARAMS)
        try:
            yield
        finally:
            if _ORIGINAL.exists():
                os.replace(_ORIGINAL, PARAMS)


def check_overrides(overrides: Mapping[str, Any]) -> None:
    """Check the parameters with these values, and change nothing.

    Raises:
        InputError: a value is wrong, or an override names no parameter.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / PARAMS.name
        YAML().dump(_changed(overrides), path)
        try:
            check_params(path)
        except InputError as error:
            raise InputError(str(error).replace(str(path), str(PARAMS))) from None


@contextmanager
def _locked() -> Iterator[None]:
    lock = FileLock(_LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        get_run_logger().info("Another run works in %s; waiting for it", Path.cwd())
        lock.acquire(poll_interval=1.0)
    try:
        yield
    finally:
        lock.release()


def _changed(overrides: Mapping[str, Any]) -> Any:
    params = YAML().load(PARAMS)
    for name, value in overrides.items():
        *path, last = name.split(".")
        section = params
        for key in path:
            section = section.get(key) if isinstance(section, dict) else None
        if not isinstance(section, dict) or (not path and last not in params):
            raise InputError(f"{PARAMS}: no parameter {name!r} to override")
        section[last] = value
    return params
