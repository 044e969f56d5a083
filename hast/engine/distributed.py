"""Fine-tuning in several processes: each computes its part of every batch, gradients are averaged.

The processes are started by `torchrun`. All of them draw the same random numbers and hold the same
student, so the averaged gradient is that of the whole batch, and the student is the one that a
single process makes, to rounding. One all-reduce a step and nothing to wrap: the loss stays the
function that the engine compiles.
"""

import os
import signal
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from hast.errors import TRY_AGAIN, InputError, TransientError

_PATIENCE = 10.0  # seconds, far more than the launcher takes to see that a process has ended


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
        try:
            dist.all_reduce(flat)
        except RuntimeError:
            # Another process is gone, and its end has the reason: let the launcher see that first.
            time.sleep(_PATIENCE)
            raise
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
    """Run `python -m module` in several processes on this machine, as `torchrun` does.

    The launcher runs in this process: the program `torchrun` ends with 1 whatever happened.

    Raises:
        InputError: one of them ended with what a user can mend; it has said what.
        TransientError: one of them ended with what may pass, or was killed.
        RuntimeError: one of them ended with an error of ours; it has printed its traceback.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    options = ["--standalone", "--nproc-per-node", str(processes), "-m", module, *arguments]
    with _environment_and_signals_restored():
        try:
            run(parse_args(options))
            return
        except ChildFailedError as error:
            codes = {failure.exitcode for failure in error.failures.values()}
            first = error.get_first_failure()[1].exitcode
            raise _failure(first, codes, f"{module} in one of {processes} processes") from None
        except SignalException as error:
            stopped_by = error.sigval
    signal.raise_signal(stopped_by)  # the processes have ended: now this one, as without a launcher
    raise TransientError(f"{module} was stopped by {stopped_by.name}, which is ignored here")


def _failure(first: int, codes: Collection[int], what: str) -> Exception:
    """The error of a process that starts others, of the kind of theirs.

    Args:
        first: exit code of the process that ended first.
        codes: of all that failed. The others lost the first one, or were stopped.
        what: failed.
    """
    # Nobody is made to end with these two, so they are the reason even where noticed together.
    code = next((known for known in (2, TRY_AGAIN) if known in codes), first)
    if code == 2:
        return InputError(f"{what} failed; see above")
    if code == TRY_AGAIN:
        return TransientError(f"{what} failed; see above")
    if code in (-signal.SIGKILL, -signal.SIGTERM):
        return TransientError(
            f"{what} was stopped by {signal.Signals(-code).name}, as where memory is full; try"
            " again, or with fewer processes (HAST_WORKERS)"
        )
    return RuntimeError(f"{what} ended with exit code {code}; see above")


@contextmanager
def _environment_and_signals_restored() -> Iterator[None]:
    """The launcher sets variables for its processes, and handlers that would stay."""
    variables = dict(os.environ)
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    handlers = {number: signal.getsignal(number) for number in handled}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(variables)
        for number, handler in handlers.items():
            signal.signal(number, handler)
