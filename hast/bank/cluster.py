"""Shards by many processes: Dask hands them out, replaces lost workers and brings errors back.

Without an address the workers are processes of this machine that end with this one. With the
address of a Dask scheduler they are wherever it has them; shards then travel through a folder or
an object store that all of them reach.
"""

import logging
import platform
import queue
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from hast.bank.exchange import Exchange
from hast.bank.shards import Job, make
from hast.bank.writer import BankWriter
from hast.engine.runtime import make_deterministic
from hast.errors import HastError, InputError, TransientError
from hast.loops.synthesize import SynthesisStep

_REPORT_EVERY = 0.2  # seconds between the reports of a worker
_PATIENCE = 60.0  # seconds for the scheduler and its first worker to show up


class Task(NamedTuple):
    """One shard for one worker."""

    job: Job
    start: int  # first sample of the shard
    threads: int  # of torch; rounding depends on them
    run: str  # names one call of `make_with_dask`
    bank: str  # of all that decides the bytes, the code among it
    exchange: Exchange | None

    def shard(self, writer: BankWriter) -> slice:
        return writer.shard_of(self.start // self.job.config.batch_size)

    def is_done(self) -> bool:
        """Whether the shard is where it belongs."""
        if self.job.name() != self.bank:
            raise InputError(
                f"the Dask worker on {platform.node()} has another version of this program; update"
                " it and start it again"
            )
        if self.exchange:
            return self.exchange.has_shard(self.start)
        if not self.job.partial.is_dir():
            raise InputError(
                f"a Dask worker does not see {self.job.partial}; set HAST_STORE to a folder or URL"
                " that all workers reach"
            )
        writer = self.job.writer(join=True)
        return writer.is_finished(self.shard(writer))


class Report(NamedTuple):
    """How far some worker is with its shard."""

    start: int
    steps: int  # done so far
    loss: float
    bns: float
    hard: float


def make_with_dask(
    job: Job, writer: BankWriter, *, workers: int, address: str = "", store: str = ""
) -> Iterator[Report]:
    """Make and write all missing shards; yields one record for each step done anywhere.

    Args:
        job: with paths of this machine.
        writer: of the bank.
        workers: processes to start where there is no `address`.
        address: of a Dask scheduler, such as tcp://host:8786.
        store: folder or fsspec URL through which shards travel. Without one, all workers must see
            the folders of this project under the same paths.

    Raises:
        InputError: Dask is not installed, or a worker cannot take part.
        TransientError: the scheduler does not answer, or workers are killed again and again.
    """
    job = job._replace(
        teacher=job.teacher.resolve(),
        generator=job.generator.resolve(),
        partial=job.partial.resolve(),
    )
    exchange = Exchange.of(store, job.name()) if store else None
    if exchange:
        exchange.send_inputs({"teacher": job.teacher, "generator": job.generator})
        for shard in writer.missing_shards():
            exchange.fetch_shard(writer, shard)  # made for an earlier run that was killed
    shards = writer.missing_shards()
    run = f"hast-{uuid.uuid4().hex}"
    name, threads = job.name(), torch.get_num_threads()
    tasks = [Task(job, shard.start, threads, run, name, exchange) for shard in shards]
    if tasks:
        with _connected(address, min(workers, len(tasks))) as client:
            yield from _reports(client, tasks, writer)
    if exchange:
        exchange.clear()


@contextmanager
def _connected(address: str, workers: int) -> Iterator[Any]:
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError:
        raise InputError(
            "several workers need Dask; install hast[pipeline], or set HAST_WORKERS=1"
        ) from None
    # Dask would give every worker one thread of its own choice; the bytes depend on that number.
    settings: dict[str, Any] = {"distributed.nanny.pre-spawn-environ": {}}
    with dask.config.set(settings):
        if not address:
            logging.getLogger("distributed").setLevel(logging.CRITICAL)
            with (
                LocalCluster(
                    n_workers=workers, threads_per_worker=1, host="127.0.0.1", memory_limit=None,
                    dashboard_address=None, silence_logs=logging.CRITICAL,
                ) as cluster,
                Client(cluster, set_as_default=False) as client,
            ):  # fmt: skip
                yield client
            return
        try:
            client = Client(address, timeout=_PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            raise TransientError(
                f"no Dask scheduler answers at {address} ({error}); start one with `dask scheduler`"
            ) from None
        with client:
            try:
                client.wait_for_workers(1, timeout=_PATIENCE)
            except TimeoutError:
                raise TransientError(
                    f"the Dask scheduler at {address} has no workers; start `dask worker {address}`"
                ) from None
            yield client


def _reports(client: Any, tasks: Sequence[Task], writer: BankWriter) -> Iterator[Report]:
    """Run the tasks; one record for each step, none twice where a lost shard is made again."""
    news: queue.SimpleQueue[Report] = queue.SimpleQueue()
    client.subscribe_topic(tasks[0].run, lambda event: news.put(Report(*event[1])))
    running = {
        client.submit(make_shard, task, key=f"{task.run}-{task.start}", pure=False): task
        for task in tasks
    }
    counted = {task.start: 0 for task in tasks}
    latest = Report(0, 0, 0.0, 0.0, 0.0)
    try:
        while running:
            finished = [future for future in running if future.done()]
            reports = [news.get() for _ in range(news.qsize())]
            for future in finished:
                start = running[future].start
                steps = (
                    len(writer.batches(running[future].shard(writer))) * tasks[0].job.config.steps
                )
                reports.append((_result(future) or latest)._replace(start=start, steps=steps))
            for latest in reports:
                for _ in range(latest.steps - counted[latest.start]):
                    yield latest
                counted[latest.start] = max(latest.steps, counted[latest.start])
            for future in finished:
                task = running.pop(future)
                if task.exchange and not task.exchange.fetch_shard(writer, task.shard(writer)):
                    raise TransientError(f"{task.exchange.root}: a shard was sent but is not there")
            if not finished and not reports:
                time.sleep(_REPORT_EVERY)
    finally:
        client.cancel(list(running), force=True)


def _result(future: Any) -> Report | None:
    from distributed import KilledWorker

    try:
        report: Report | None = future.result()
    except (HastError, torch.OutOfMemoryError):
        raise
    except KilledWorker:
        raise TransientError(
            "synthesize: workers were killed again and again at one shard (out of memory?);"
            " finished shards are kept: run again, with fewer workers if it happens again"
        ) from None
    except Exception as error:
        if future.status != "error":  # no error of ours: the scheduler is gone
            raise TransientError(
                f"synthesize: the connection to the Dask scheduler was lost ({error}); finished"
                " shards are kept: run again"
            ) from None
        raise
    return report


class _Line:
    """A worker's loop, kept between its shards, so that networks are loaded and compiled once."""

    def __init__(self, task: Task) -> None:
        self.run = task.run
        self._folder = TemporaryDirectory()
        here = Path(self._folder.name)
        job = task.job._replace(device=_own_device(task.job.device))
        if task.exchange:
            job = job._replace(
                teacher=task.exchange.fetch_input("teacher", here),
                generator=task.exchange.fetch_input("generator", here),
                partial=here,
            )
        self.writer = job.writer(join=not task.exchange)
        self._todo: deque[slice] = deque()
        self._steps = make(job, self.writer, iter(self._todo.popleft, None))

    def make(self, shard: slice) -> Iterator[SynthesisStep]:
        self._todo.append(shard)
        for step in self._steps:
            yield step
            if step.is_last and self.writer.is_finished(shard):
                return


_line: _Line | None = None  # of this worker process


def make_shard(task: Task) -> Report | None:
    """Make one shard in a Dask worker, reporting now and then; returns the last report, or None
    where the shard is there already."""
    global _line
    from distributed import get_worker

    if task.is_done():  # by a worker that was killed before it could say so
        return None
    make_deterministic()
    torch.set_num_threads(task.threads)
    if _line is None or _line.run != task.run:
        _line = _Line(task)
    line, _line = _line, None  # a line that failed is not used again
    shard = task.shard(line.writer)
    reported, report = time.monotonic(), Report(task.start, 0, 0.0, 0.0, 0.0)
    for count, step in enumerate(line.make(shard), start=1):
        last = step.is_last and line.writer.is_finished(shard)
        if last or time.monotonic() - reported > _REPORT_EVERY:
            report = Report(task.start, count, float(step.loss), float(step.bns), float(step.hard))
            get_worker().log_event(task.run, list(report))
            reported = time.monotonic()
    if task.exchange:
        task.exchange.send_shard(line.writer, shard)
    _line = line
    return report


def _own_device(name: str) -> str:
    """The GPU of this worker where several local ones share the machine."""
    from distributed import get_worker

    index = get_worker().name
    if name == "cuda" and isinstance(index, int):
        return f"cuda:{index % torch.cuda.device_count()}"
    return name
