"""What a killed DVC may leave of its notes on who reads and writes what."""

import json
import sys
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

_TMP = Path(".dvc/tmp")
_NOTES = _TMP / "rwlock"


def is_torn() -> bool:
    """Whether they cannot be read, at which DVC stops for ever: it writes them in place."""
    with suppress(FileNotFoundError):
        try:
            json.loads(_NOTES.read_text(encoding="utf-8"))
        except ValueError:
            return True
    return False


def mend_lock() -> None:
    """Remove torn notes, which say nothing any more; those of processes that are gone DVC drops
    itself."""
    if is_torn():
        with FileLock(_TMP / "rwlock.lock"):  # DVC holds it while it writes, by the same flock
            if is_torn():
                _NOTES.unlink()
                print(f"{_NOTES}: torn, as by a kill; removed", file=sys.stderr)
