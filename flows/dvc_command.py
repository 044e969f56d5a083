"""DVC's command line, which also notes whether an error may pass.

    python -m hast.flows.dvc_command ARGUMENTS OF DVC ...

DVC ends with one exit code for all its errors, and says the rest in sentences. It logs them as
exceptions, though, and their kinds tell.
"""

import logging
import sys

from dvc.cli import main as dvc
from dvc.exceptions import FileTransferError
from dvc.lock import LockError

from hast.errors import TRY_AGAIN
from hast.flows.records import note

# Of the standard library, requests, aiohttp, botocore and urllib3: of none that is not in use.
_NETWORK = {
    "ConnectionError",
    "ClientConnectionError",
    "HTTPClientError",
    "Timeout",
    "TimeoutError",
}


class _Noting(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        while error is not None:
            if passes(error):
                note("dvc", TRY_AGAIN)
            error = error.__cause__ or error.__context__


def passes(error: BaseException) -> bool:
    """Whether the same may pass when it is tried again: a lock is held, a store is away."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, (LockError, FileTransferError)) or not names.isdisjoint(_NETWORK)


if __name__ == "__main__":
    logging.getLogger("dvc").addHandler(_Noting(logging.ERROR))
    sys.exit(dvc(sys.argv[1:]))
