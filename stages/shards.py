"""Make the missing shards of a bank, in this process or in several with a device each.

A batch depends on the parameters and on its number alone and shards are disjoint, so the bank is
the same whoever makes them.
"""

import multiprocessing
import queue
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hast.bank import BankCard
from hast.engine import Engine, select_device
from hast.errors import HastError, InputError
from hast.loops.synthesize import SynthesisConfig, SynthesisStep, synthesize
from hast.runtime import make_deterministic
from hast.storage.bank import BankWriter
from hast.storage.generators import load_generator
from hast.storage.teachers import load_teacher

PARTIAL = Path(".partial")
_REPORT_EVERY = 0.2  # seconds between the reports of a worker


class Job(NamedTuple):
    """What a process needs to make shards of one bank."""

    teacher: Path
    generator: Path
    card: BankCard
    config: SynthesisConfig
    engine: Engine

    def writer(self, *, join: bool = False) -> BankWriter:
        return BankWriter(PARTIAL, self.card, self.config.batch_size, join=join)


class Report(NamedTuple):
    """A step that some process has done."""

    loss: float
    bns: float
    hard: float


def make_shards(
    job: Job, writer: BankWriter, device: torch.device, workers: int
) -> Iterator[SynthesisStep | Report]:
    """Make and write all missing shards; yields one record for each step done anywhere.

    Raises:
        InputError: a worker was killed.
    """
    shards = writer.missing_shards()
    workers = min(workers, len(shards))
    if workers <= 1:
        return _make(job, writer, iter(shards), device)
    return _make_in_processes(job, shards, [_device_of(i, device) for i in range(workers)])


def default_workers(device: torch.device) -> int:
    """One for each GPU that `device` leaves open; a CPU is busy with one."""
    return torch.cuda.device_count() if device == torch.device("cuda") else 1


def _device_of(worker: int, device: torch.device) -> str:
    if device == torch.device("cuda"):
        return f"cuda:{worker % torch.cuda.device_count()}"
    return str(device)


def _make(
    job: Job, writer: BankWriter, shards: Iterator[slice], device: torch.device
) -> Iterator[SynthesisStep]:
    """Make shards one after the other; each is written as soon as its batches are done."""
    source = load_teacher(job.teacher, device)
    init = load_generator(job.generator, source, device)
    batches = (index for shard in shards for index in writer.batches(shard))
    results: dict[int, tuple[Tensor, Tensor]] = {}
    for step in synthesize(source.network, init, source.spec, job.config, batches, job.engine):
        if step.is_last:
            results[step.batch] = (step.images, step.labels)
            shard = writer.shard_of(step.batch)
            if all(index in results for index in writer.batches(shard)):
                done = [results.pop(index) for index in writer.batches(shard)]
                images, labels = (torch.cat(part) for part in zip(*done, strict=True))
                writer.write(shard, images, labels)
        yield step


def _make_in_processes(job: Job, shards: Sequence[slice], devices: list[str]) -> Iterator[Report]:
    context = multiprocessing.get_context("spawn")
    taken, reports = context.Value("i", 0), context.Queue()
    workers = [
        context.Process(target=_work, args=(job, device, shards, taken, reports), daemon=True)
        for device in devices
    ]
    for worker in workers:
        worker.start()
    try:
        yield from _reports(workers, reports)
    finally:
        for worker in workers:
            worker.kill()  # those that are done do not mind
            worker.join()


def _work(job: Job, device: str, shards: Sequence[slice], taken: Any, reports: Any) -> None:
    """A worker: take shards until none is left; report (steps, last step) now and then, or the
    error that ended it."""
    make_deterministic()
    parent = multiprocessing.parent_process()
    steps, reported = 0, time.monotonic()
    try:
        where = select_device(device)
        for step in _make(job, job.writer(join=True), _next_of(shards, taken), where):
            steps += 1
            if step.is_last or time.monotonic() - reported > _REPORT_EVERY:
                reports.put((steps, Report(float(step.loss), float(step.bns), float(step.hard))))
                steps, reported = 0, time.monotonic()
                if parent is not None and not parent.is_alive():
                    return  # killed; nobody would end this process
    except HastError as error:
        reports.put((0, error))


def _next_of(shards: Sequence[slice], taken: Any) -> Iterator[slice]:
    """Shards that no other worker has taken."""
    while True:
        with taken.get_lock():
            index, taken.value = taken.value, taken.value + 1
        if index >= len(shards):
            return
        yield shards[index]


def _reports(workers: Sequence[Any], reports: Any) -> Iterator[Report]:
    """One record for each step that was reported, until all workers are done."""
    while True:
        finished = all(worker.exitcode == 0 for worker in workers)
        try:
            steps, report = reports.get(timeout=_REPORT_EVERY)
        except queue.Empty:
            if finished:
                return
            if any(worker.exitcode for worker in workers):
                raise InputError(
                    "synthesize: a worker process was killed or failed (out of memory?); finished"
                    " shards are kept: run again, with fewer workers if it happens again"
                ) from None
            continue
        if isinstance(report, HastError):
            raise report
        for _ in range(steps):
            yield report
