"""Determinism, seeded randomness, and memory of the process."""

import ctypes
import functools
import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h

_WARN = 1  # of torch's `deterministic_debug_mode`: 0 is off, 2 raises
_CUDNN: Any = torch.backends.cudnn
_SETTINGS: list[tuple[Any, str, Any]] = [
    (torch.utils.deterministic, "fill_uninitialized_memory", False),  # nobody reads it
    (_CUDNN, "benchmark", False),
    # By the older of torch's two ways: torch.export fails where the newer one was used.
    (_CUDNN, "allow_tf32", False),
    (torch.backends.cuda.matmul, "allow_tf32", False),
]

P = ParamSpec("P")
R = TypeVar("R")


def make_deterministic() -> None:
    """Same inputs, same machine, same bytes; and fp32 is fp32.

    Convolutions on CUDA are TF32 by default, with 10 bits of mantissa in place of 23: a student
    would be measured, and its ranges observed, with other numbers than on a CPU.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    _set_determinism(_WARN)
    for owner, name, value in _SETTINGS:
        setattr(owner, name, value)


def tell_compiler() -> None:
    """Have compiled code be as deterministic as the rest of the process is."""
    mode = torch.get_deterministic_debug_mode()
    torch.use_deterministic_algorithms(mode > 0, warn_only=mode == _WARN)


def _set_determinism(mode: int) -> None:
    """As torch's `use_deterministic_algorithms`, which imports the compiler to tell it: two seconds
    of every stage that compiles nothing. Where something is compiled, `tell_compiler` does so.

    Args:
        mode: torch's `deterministic_debug_mode`.
    """
    torch.set_deterministic_debug_mode(mode)
    if "torch._inductor.config" in sys.modules:
        tell_compiler()


def loop(function: Callable[P, Iterator[R]]) -> Callable[P, Iterator[R]]:
    """Run a generator function deterministically, in exact fp32, and with freed memory kept.

    The settings of the process hold until the generator ends or is closed, also between its
    records; then they are what they were before, and the memory is handed back.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        with _LOOPS.entered():
            yield from function(*args, **kwargs)

    return run


class _Loops:
    """The loops that run, however they overlap: the first one changes the settings of the process,
    the last one restores them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._restore = ExitStack()

    @contextmanager
    def entered(self) -> Iterator[None]:
        with self._lock:
            if not self._running:
                self._restore = _settings_kept()
                make_deterministic()
                keep_freed_memory()
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                # A loop that is collected as the interpreter ends has nobody to restore them for.
                if not self._running and not sys.is_finalizing():
                    self._restore.close()


_LOOPS = _Loops()


def _settings_kept() -> ExitStack:
    """What puts the settings back that a loop changes."""
    stack = ExitStack()
    stack.callback(_hand_memory_back)
    for owner, name, _ in _SETTINGS:
        stack.callback(setattr, owner, name, getattr(owner, name))
    stack.callback(_set_determinism, torch.get_deterministic_debug_mode())
    return stack


def keep_freed_memory() -> None:
    """Let this process keep up to 2 GB of what it frees, for the next tensors.

    glibc hands a step's activations back to the system, which has to clear every page of the next
    step's: of a large network, most of the time of a step. Source: mallopt(3). Other C libraries
    are left as they are.
    """
    _set_thresholds(mmap=1 << 30, trim=(1 << 31) - 1)


def _hand_memory_back() -> None:
    """As it is in a process that has freed large tensors before: glibc raises its thresholds by
    itself, to 32 and 64 MB at most. It cannot be told to go on raising them."""
    if _set_thresholds(mmap=32 << 20, trim=64 << 20):
        ctypes.CDLL(None).malloc_trim(0)


def _set_thresholds(*, mmap: int, trim: int) -> bool:
    """Tell malloc from how many bytes on it maps memory and hands it back; False where it is not
    glibc's."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no such function, or no such handle
        return False
    # In this order: with the second alone, all that is large would be mapped and unmapped anew.
    return bool(mallopt(_M_MMAP_THRESHOLD, mmap) and mallopt(_M_TRIM_THRESHOLD, trim))


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


def probe_images(network: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    """Two images of noise in [0, 1], (2, C, H, W), to see what a network does: one image alone may
    lose its dimension on the way, one without contrast cannot be standardized, and values beyond
    those of pixels may have no root or no entry in a table."""
    return torch.rand(2, *shape, generator=seeded(0, "probe")).to(device_of(network))


def device_of(network: nn.Module) -> torch.device:
    """Where the network's parameters are; one without any is on the CPU."""
    return next(network.parameters(), torch.empty(0, device="cpu")).device
