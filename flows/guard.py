"""Run a command that lives no longer than the process that asked for it.

    python -m flows.guard COMMAND [ARGUMENT ...]

The one who asks keeps the standard input of this process open. When it is closed, on purpose or
because its owner was killed, the command and all processes of its group are stopped: first as by
Ctrl-C, so that DVC gives its locks back, then harder.
"""

import os
import signal
import subprocess
import sys
import threading
import time

_STEPS = ((signal.SIGINT, 10.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 0.0))


def main(command: list[str]) -> int:
    """Run the command; returns its exit code, as a shell would report it."""
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    # A program started in the background of a script inherits that Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # meant for the group; this process ends last
    threading.Thread(target=_stop_when_left, args=[process], daemon=True).start()
    code = process.wait()
    return 128 - code if code < 0 else code


def _stop_when_left(process: "subprocess.Popen[bytes]") -> None:
    # Reads the descriptor itself: a daemon thread inside a buffered reader breaks the exit.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    for number, patience in _STEPS:
        os.killpg(0, number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
