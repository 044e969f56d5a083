"""The clone in which a flow run works: one run at a time, and parameters for that run alone."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock, Timeout
from prefect import get_run_logger
from ruamel.yaml import YAML

from hast.config.params import check_params
from hast.config.section import flattened
from hast.errors import InputError
from hast.files.placing import write_atomically
from hast.flows.lock import mend_lock
from hast.stages.entry import PARAMS

_TMP = Path(".dvc/tmp")  # DVC keeps it out of Git
_LOCK = _TMP / "hast-flow.lock"
_ORIGINAL = _TMP / "params.before-run.yaml"  # while it exists, PARAMS may hold values of a run
_WRITTEN = _TMP / "params.of-run.yaml"  # what that run made of it; there whenever the original is


@contextmanager
def workspace(overrides: Mapping[str, Any]) -> Iterator[None]:
    """Have the current folder's project for one run, with some parameters set to other values.

    params.yaml is as it was afterwards; where the run was killed, the next one puts it back. What
    somebody has edited meanwhile stays, and the file as it was before is kept beside it.

    Args:
        overrides: by dotted name, such as {"quantize.alignment_weight": 500}.

    Raises:
        InputError: this is no DVC project, or an override names no parameter.
    """
    if not Path(".dvc").is_dir():
        raise InputError(
            f"{Path.cwd()} is no project; run this in one, or set HAST_WORKSPACE for a worker"
        )
    _TMP.mkdir(exist_ok=True)
    with _locked():
        mend_lock()
        _put_back()
        if overrides:
            _override(overrides)
        try:
            yield
        finally:
            _put_back()


def check_overrides(overrides: Mapping[str, Any]) -> None:
    """Check the parameters with these values, and change nothing.

    Raises:
        InputError: a value is wrong, or an override names no parameter.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / PARAMS.name
        YAML().dump(_changed(PARAMS.read_bytes(), overrides), path)
        try:
            check_params(path)
        except InputError as error:
            raise InputError(str(error).replace(str(path), str(PARAMS))) from None


@contextmanager
def _locked() -> Iterator[None]:
    lock = FileLock(_LOCK)
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        get_run_logger().info("Another run works in %s; waiting for it", Path.cwd())
        held = lock.acquire(poll_interval=1.0)
    with held:
        yield


def _override(overrides: Mapping[str, Any]) -> None:
    """Write the parameters of a run. Killed at any moment, it leaves what `_put_back` mends."""
    original, written = PARAMS.read_bytes(), BytesIO()
    YAML().dump(_changed(original, overrides), written)
    write_atomically(_WRITTEN, written.getvalue())
    write_atomically(_ORIGINAL, original)
    write_atomically(PARAMS, written.getvalue())


def _put_back() -> None:
    """Undo the overrides of the last run, unless somebody has edited the file since."""
    original, written, now = map(_content, (_ORIGINAL, _WRITTEN, PARAMS))
    if original is None or now == original:
        _ORIGINAL.unlink(missing_ok=True)
    elif now is None or now == written:
        os.replace(_ORIGINAL, PARAMS)
    else:
        kept = _free_name()
        # First the word, then the deed: killed in between, it is said again.
        get_run_logger().warning(
            "%s was edited while it held a run's own values (of %s), which may still be in it; it"
            " stays as it is, and %s is how it was before that run",
            PARAMS, ", ".join(_differing(original, written or original)) or "unknown names", kept,
        )  # fmt: skip
        os.rename(_ORIGINAL, kept)
    _WRITTEN.unlink(missing_ok=True)  # last: without it the run's own file would look edited


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _free_name() -> Path:
    """A name beside params.yaml that no file has: params.before-run.yaml, then with -2, -3, ..."""
    path, number = PARAMS.with_stem(f"{PARAMS.stem}.before-run"), 1
    while path.exists():
        number += 1
        path = PARAMS.with_stem(f"{PARAMS.stem}.before-run-{number}")
    return path


def _differing(one: bytes, other: bytes) -> list[str]:
    """Dotted names of the parameters of `other` that are not so in `one`."""
    known = flattened(YAML().load(one))
    return [name for name, value in flattened(YAML().load(other)) if (name, value) not in known]


def _changed(params_file: bytes, overrides: Mapping[str, Any]) -> Any:
    params = YAML().load(params_file)
    for name, value in overrides.items():
        *path, last = name.split(".")
        section = params
        for key in path:
            section = section.get(key) if isinstance(section, dict) else None
        if not isinstance(section, dict) or (not path and last not in params):
            raise InputError(f"{PARAMS}: no parameter {name!r} to override")
        section[last] = value
    return params
