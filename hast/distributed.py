"""Fine-tuning in several processes: each computes its part of every batch, gradients are averaged.

The processes are started by `torchrun`. All of them draw the same random numbers and hold the same
student, so the averaged gradient is that of the whole batch, and the student is the one that a
single process makes, to rounding. One all-reduce a step and nothing to wrap: the loss stays the
function that the engine compiles.
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from hast.errors import InputError


class Ranks(NamedTuple):
    """This process among those that share the work."""

    rank: int = 0
    size: int = 1

    def share(self, batch: Tensor) -> Tensor:
        """This process's equal part (N / size, ...) of a batch (N, ...).

        Raises:
            InputError: the batch cannot be split evenly.
        """
        if len(batch) % self.size:
            raise InputError(
                f"a batch of {len(batch)} cannot be split evenly over {self.size} processes; set"
                " batch_size to a multiple of them"
            )
        return batch.chunk(self.size)[self.rank]

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in place."""
        if self.size == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([t.flatten() for t in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))


ALONE = Ranks()


def launched() -> bool:
    """Whether `torchrun` started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined_ranks(device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """Meet the other processes that `torchrun` started, if any.

    Yields:
        This process's place, and its device: `cuda` becomes the GPU of this process.
    """
    if not launched():
        yield ALONE, device
        return
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size()), device
    finally:
        dist.destroy_process_group()


def launch(processes: int, module: str, arguments: Sequence[str]) -> None:
    """Run `python -m module` in several processes on this machine.

    Raises:
        InputError: one of them failed; it has said why.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    done = subprocess.run([*torchrun, str(processes), "-m", module, *arguments], check=False)
    if done.returncode:
        raise InputError(f"{module} failed in one of {processes} processes; see above")
