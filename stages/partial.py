"""Where unfinished work is kept between runs, and what it is called there."""

import hashlib
from functools import cache
from pathlib import Path

import hast

PARTIAL = Path(".partial")


def name_of(*inputs: object) -> str:
    """Names what this code makes of these inputs: other inputs or changed code never continue it.

    Args:
        inputs: their `repr` tells all that decides the result.
    """
    return hashlib.sha256(f"{_code()} {inputs!r}".encode()).hexdigest()[:16]


@cache
def _code() -> str:
    """Hash of the library's source."""
    digest = hashlib.sha256()
    for path in sorted(Path(hast.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
