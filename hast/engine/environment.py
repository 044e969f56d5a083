"""Variables of the process, for the programs that it starts."""

import getpass
import os
from pathlib import Path

from hast.engine.machine import git


def complete_environment() -> None:
    """Set variables that DVC, Prefect and what they start go by, where nobody has: no telemetry,
    patience with the start of a server, and what a service account or a container may lack: a name,
    one for Git (DVC keeps experiments as commits), a home that can be written."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # a number without an entry in /etc/passwd; DVC asks for a name
        os.environ["USER"] = f"uid{os.getuid()}"
    usual = {
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }
    if not os.access(os.path.expanduser("~"), os.W_OK):
        usual["PREFECT_HOME"] = os.path.abspath(".prefect")
    if None in (git("config", f"user.{part}", folder=Path.cwd()) for part in ("name", "email")):
        for who in ("AUTHOR", "COMMITTER"):
            usual |= {f"GIT_{who}_NAME": "hast", f"GIT_{who}_EMAIL": "hast@localhost"}
    for name, value in usual.items():
        os.environ.setdefault(name, value)
