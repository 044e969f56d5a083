"""DVC's command line, which also notes which stages run and whether an error may pass.

    python -m hast.flows.dvc_command ARGUMENTS OF DVC ...

DVC ends with one exit code for all its errors, and says the rest in sentences. Inside it knows
more: the exit code of a stage, and the kind of an exception.
"""

import logging
import sys
from typing import Any

from dvc.cli import main as dvc
from dvc.exceptions import FileTransferError
from dvc.lock import LockError
from dvc.stage import run as stages

from hast.flows.records import FAILED, PASSES, STARTED, note

# Of the standard library, requests, aiohttp and botocore, without importing those.
_NETWORK = {
    "ConnectionError", "ClientConnectionError", "HTTPClientError", "Timeout", "TimeoutError",
}  # fmt: skip


class _Noting(logging.Handler):
    """DVC logs every error with its exception."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        while error is not None:
            if passes(error):
                note(PASSES)
            error = error.__cause__ or error.__context__


class _Failed(stages.StageCmdFailedError):  # type: ignore[misc]
    """DVC puts the exit code into a sentence and forgets it."""

    def __init__(self, command: object, status: int | None = None) -> None:
        super().__init__(command, status)
        note(FAILED, status)


def passes(error: BaseException) -> bool:
    """Whether the same may pass when it is tried again: a lock is held, a store is away."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, (LockError, FileTransferError)) or not names.isdisjoint(_NETWORK)


def main(arguments: list[str]) -> int:
    """Run DVC; returns its exit code."""
    start = stages.cmd_run

    def noted(*given: Any, **more: Any) -> None:
        note(STARTED)
        start(*given, **more)

    stages.cmd_run, stages.StageCmdFailedError = noted, _Failed
    logging.getLogger("dvc").addHandler(_Noting(logging.ERROR))
    return int(dvc(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
