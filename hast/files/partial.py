"""Unfinished work, kept between runs: where, under which name, and checkpoints of it.

A checkpoint is one safetensors file, replaced whole every so many seconds.
"""

import hashlib
import json
import time
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hast.files.code import code_fingerprint
from hast.files.placing import read_errors, write_atomically

PARTIAL = Path(".partial")
_KEY = "hast-checkpoint"
_WAY_OUT = "remove it and run again"
_code = cache(code_fingerprint)  # of what this process has loaded, whatever becomes of the files


def name_of(module: str, *inputs: object) -> str:
    """Names what a module makes of these inputs: other inputs or changed code never continue it.

    Args:
        module: such as `hast.stages.quantize`.
        inputs: their `repr` tells all that decides the result.
    """
    return hashlib.sha256(f"{_code(module)} {inputs!r}".encode()).hexdigest()[:16]


class Saved(NamedTuple):
    """What a checkpoint holds."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]  # plain JSON


class CheckpointFile:
    """A file that a later run finds under the same name."""

    def __init__(self, path: Path, *, every: float) -> None:
        """
        Args:
            path: named after all that decides the work.
            every: seconds between two checkpoints.
        """
        self.path, self._every = path, every
        self._last = time.monotonic()

    def is_due(self) -> bool:
        return time.monotonic() - self._last >= self._every

    def save(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Replace what was saved before.

        Raises:
            InputError: the disk is full; the checkpoint before stays.
        """
        write_atomically(self.path, save(tensors, {_KEY: json.dumps(values)}))
        self._last = time.monotonic()

    def load(self) -> Saved | None:
        """What was saved last; None where nothing was.

        Raises:
            InputError: the file is damaged.
        """
        if not self.path.is_file():
            return None
        with (
            read_errors(self.path, SafetensorError, ValueError, KeyError, way_out=_WAY_OUT),
            safe_open(self.path, framework="pt") as file,
        ):
            values = json.loads((file.metadata() or {})[_KEY])
            return Saved({name: file.get_tensor(name) for name in file.keys()}, values)  # noqa: SIM118

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
