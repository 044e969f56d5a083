"""Determinism, seeded randomness, and memory of the process."""

import ctypes
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def make_deterministic() -> None:
    """Same inputs, same machine, same bytes."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False


def keep_freed_memory() -> bool:
    """Let this process keep up to 2 GB of what it frees, for the next tensors.

    glibc hands a step's activations back to the system, which has to clear every page of the next
    step's. Meant for a process that loops on a CPU and ends; in one that lives on, the memory is
    not there for others. Source: mallopt(3).

    Returns:
        Whether it does; other C libraries than glibc are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # In this order: with the second alone, all that is large would be mapped and unmapped anew.
    return (
        mallopt is not None
        and bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30))
        and bool(mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))
    )


def seeded(seed: int, *stream: str | int) -> torch.Generator:
    """A CPU random generator of its own for each named stream, such as ("synthesize", batch).

    Draw from it on the CPU and move the result: the numbers then depend on the names alone, not on
    the device, on what ran before or on who runs it.
    """
    digest = hashlib.sha256(repr((seed, *stream)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@contextmanager
def seeded_weights(seed: int, *stream: str | int) -> Iterator[None]:
    """Initial weights of the networks built inside depend on the names alone; the global random
    state outside is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeded(seed, *stream).initial_seed())
        yield


def device_of(network: nn.Module) -> torch.device:
    """Where the network's parameters are."""
    return next(network.parameters()).device
