"""Where unfinished work is kept between runs, and what it is called there."""

import hashlib
from functools import cache
from pathlib import Path

from hast.files.code import code_fingerprint

PARTIAL = Path(".partial")
_code = cache(code_fingerprint)  # of what this process has loaded, whatever becomes of the files


def name_of(module: str, *inputs: object) -> str:
    """Names what a module makes of these inputs: other inputs or changed code never continue it.

    Args:
        module: such as `stages.quantize`.
        inputs: their `repr` tells all that decides the result.
    """
    return hashlib.sha256(f"{_code(module)} {inputs!r}".encode()).hexdigest()[:16]
