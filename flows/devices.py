"""Which tasks may share a device: one concurrency limit of Prefect for each GPU or CPU.

A task that computes carries a tag for each device it takes; Prefect lets as many tasks with one
tag run as its limit says, over all flow runs of all workers. A GPU is named by its UUID, so that
every worker and container means the same one.
"""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Sequence

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from hast.errors import InputError

_GPU = "gpu:"


def visible_devices() -> list[str]:
    """Tags of this machine's GPUs, or of its CPU where there is none to use."""
    gpus = [] if os.environ.get("HAST_DEVICE", "auto") == "cpu" else _visible_gpus()
    return [f"{_GPU}{uuid}" for uuid in gpus] or [f"cpu:{platform.node()}"]


def shared_out(items: Iterable[str | None]) -> dict[str | None, list[str]]:
    """Tags of this machine's devices, which have limits then: the items of a matrix take one each
    in turn, None takes all.

    Args:
        items: of the matrix, each as often as it comes; None is what belongs to no matrix.
    """
    devices = visible_devices()
    ensure_limits(devices)
    shares: dict[str | None, list[str]] = {None: list(devices)}
    for item in items:
        shares.setdefault(item, [devices[(len(shares) - 1) % len(devices)]])
    return shares


def environment_of(devices: Sequence[str]) -> dict[str, str]:
    """What shows a process these devices and no others."""
    gpus = [tag.removeprefix(_GPU) for tag in devices if tag.startswith(_GPU)]
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}


def ensure_limits(devices: Sequence[str]) -> None:
    """Create the limits that are missing: one task a device.

    HAST_TASKS_PER_DEVICE sets another number; without it a limit that somebody has changed on the
    server stays as it is.

    Raises:
        InputError: the variable is no positive number.
    """
    wanted = os.environ.get("HAST_TASKS_PER_DEVICE")
    if wanted is not None and not (wanted.isdecimal() and int(wanted) > 0):
        raise InputError(f"HAST_TASKS_PER_DEVICE must be a positive number, got {wanted!r}")
    with get_client(sync_client=True) as client:
        for tag in devices:
            name = f"tag:{tag}"
            if wanted is None:
                try:
                    client.read_global_concurrency_limit_by_name(name)
                    continue
                except ObjectNotFound:
                    pass
            client.upsert_global_concurrency_limit_by_name(name, int(wanted or 1))


def _visible_gpus() -> list[str]:
    """UUIDs, in the order of CUDA_VISIBLE_DEVICES where that is set."""
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(
        ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    uuids = listed.stdout.split() if listed.returncode == 0 else []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return uuids
    names = [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return [uuids[int(n)] if n.isdecimal() and int(n) < len(uuids) else n for n in names]
