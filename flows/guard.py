"""Run a command that lives no longer than the process that asked for it.

    python -m hast.flows.guard COMMAND [ARGUMENT ...]

The one who asks keeps the standard input of this process open. When it is closed, on purpose or
because its owner was killed, or when the command ends, all processes of its group are stopped:
first as by Ctrl-C, so that DVC gives its locks back, then harder. This process ends when none of
them is left.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import psutil

_STEPS = ((signal.SIGINT, 10.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 1.0))


def main(command: list[str]) -> int:
    """Run the command; returns its exit code, as a shell would report it."""
    # A program started in the background of a script inherits that Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # this process ends last
    threading.Thread(target=_stop_when_left, args=[process.pid], daemon=True).start()
    code = process.wait()
    _stop(process.pid)  # what it started may take longer to end, or not know that it was killed
    return 128 - code if code < 0 else code


def _stop_when_left(group: int) -> None:
    # Reads the descriptor itself: a daemon thread inside a buffered reader breaks the exit.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    _stop(group)


def _stop(group: int) -> None:
    for number, patience in _STEPS:
        if not _alive(group):
            return
        with suppress(ProcessLookupError):  # the last one ended just now
            os.killpg(group, number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and _alive(group):
            time.sleep(0.05)


def _alive(group: int) -> bool:
    """Whether a process of the group runs; one that ended and is not yet reaped does not count."""
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
