"""What the machine itself can do, measured before anything is compared with it."""

import functools
import platform
import time
from collections.abc import Callable
from typing import Any

import torch

from hast.engine.machine import device_name

_REPEATS = 5


def best_seconds(function: Callable[[], Any], device: torch.device) -> float:
    """Shortest of a few runs."""
    times = []
    for _ in range(_REPEATS):
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a square matrix product."""
    n = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / best_seconds(lambda: a @ b, device)


def memory_rate(device: torch.device) -> float:
    """Bytes/s read and written by a copy."""
    source = torch.empty(64 << 20, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / best_seconds(lambda: target.copy_(source), device)


@functools.cache  # a process measures its machine once
def describe(device: torch.device) -> dict[str, Any]:
    """Hardware, versions and measured limits."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "matmul_fp32_gflops": matmul_rate(device, torch.float32) / 1e9,
        "matmul_bf16_gflops": matmul_rate(device, torch.bfloat16) / 1e9,
        "memory_gbytes": memory_rate(device) / 1e9,
    }
