"""Shards by many processes: Dask hands them out, replaces lost workers and brings errors back.

Without an address the workers are processes of this machine that end with this one. With the
address of a Dask scheduler they are wherever it has them. What they read, the networks, reaches
them through Dask; what they make goes straight into the unfinished bank where they see its folder,
or else into a store that all reach.
"""

import logging
import multiprocessing
import platform
import queue
import time
import uuid
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from hast.bank.remote import Remote
from hast.bank.shards import Job, make
from hast.bank.transfer import fetch_shard, send_shard, shards_in
from hast.bank.writer import BankWriter
from hast.errors import InputError, TransientError, first_line, needs
from hast.files.placing import write_atomically
from hast.files.weights import CARD, WEIGHTS

_REPORT_EVERY = 0.2  # seconds between the reports of a worker
_FETCHED_TOGETHER = 8  # shards; one transfer from a store is slower than the network
_PATIENCE = 60.0  # seconds for the scheduler and its first worker to show up


class Run(NamedTuple):
    """One call of `make_with_dask`, as its workers know it."""

    key: str
    job: Job
    bank: str  # of all that decides the bytes, the code among it
    threads: int  # of torch; rounding depends on them
    store: str  # URL; empty where the workers see the folder of the unfinished bank


class Report(NamedTuple):
    """How far some worker is with its shard."""

    start: int  # first sample of the shard
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
        store: folder or fsspec URL into which the workers write shards. Without one, all of them
            must see the folder of the unfinished bank under the same path.

    Raises:
        InputError: Dask is not installed, or a worker cannot take part.
        TransientError: the scheduler does not answer, or workers are killed again and again.
    """
    name = job.name()
    if store:
        store = f"{store if '://' in store else Path(store).resolve()}/bank-{name}"
        with ThreadPoolExecutor(_FETCHED_TOGETHER) as pool:  # made for a run that was killed
            list(pool.map(partial(fetch_shard, writer, store=store), shards_in(store, writer)))
    if writer.missing_shards():
        job = job._replace(partial=job.partial.resolve())
        run = Run(f"hast-{uuid.uuid4().hex}", job, name, torch.get_num_threads(), store)
        with _connected(address, min(workers, len(writer.missing_shards()))) as client:
            yield from _reports(client, run, writer)
    if store:
        Remote(store).clear()


@contextmanager
def _connected(address: str, workers: int) -> Iterator[Any]:
    with needs("'hast[pipeline]'", otherwise="set HAST_WORKERS=1"):
        import dask
        from distributed import Client, LocalCluster
    settings: dict[str, Any] = {
        # Dask would give every worker one thread of its own choice; the bytes depend on that.
        "distributed.nanny.pre-spawn-environ": {},
        # A large teacher is sent once and on purpose.
        "distributed.admin.large-graph-warning-threshold": "1 TB",
    }
    with dask.config.set(settings), ExitStack() as stack:
        if not address:
            check_shared_memory()
            logging.getLogger("distributed").setLevel(logging.CRITICAL)
            cluster = LocalCluster(
                n_workers=workers, threads_per_worker=1, host="127.0.0.1", memory_limit=None,
                dashboard_address=None, silence_logs=logging.CRITICAL,
            )  # fmt: skip
            address = stack.enter_context(cluster).scheduler_address
        try:
            client = Client(address, timeout=_PATIENCE, set_as_default=False)
            stack.enter_context(client).wait_for_workers(1, timeout=_PATIENCE)
        except (OSError, ValueError) as error:
            raise TransientError(
                f"no Dask scheduler answers at {address} with a worker ({error}); start them with"
                f" `dask scheduler` and `dask worker {address}`"
            ) from None
        yield client


def check_shared_memory() -> None:
    """Processes of one machine share semaphores.

    Raises:
        InputError: it gives none, as a container whose /dev/shm is read-only.
    """
    try:
        multiprocessing.get_context("spawn").Semaphore()
    except OSError as error:
        raise InputError(
            f"several processes need shared memory, and there is none ({error}); mount /dev/shm so"
            " that it can be written, or set HAST_WORKERS=1"
        ) from None


def _reports(client: Any, run: Run, writer: BankWriter) -> Iterator[Report]:
    """Make the missing shards; one record for each step, none twice where a lost shard is made
    again."""
    news: queue.SimpleQueue[Report | Future[Any]] = queue.SimpleQueue()
    client.subscribe_topic(run.key, lambda event: news.put(Report(*event[1])))
    arrivals = ThreadPoolExecutor(_FETCHED_TOGETHER)

    def fetch(made: Any) -> None:
        with suppress(RuntimeError):  # nobody waits any more
            arrived = arrivals.submit(_take, made, run, writer, running[made])
            arrived.add_done_callback(news.put)

    # A task of its own: Dask keeps one copy, hands it on, and makes it again where it is lost.
    networks = client.submit(dict, _networks(run.job), key=f"networks-{run.key}", pure=False)
    running = {
        client.submit(
            make_shard, run, shard, networks, key=f"{run.key}-{shard.start}", pure=False
        ): shard
        for shard in writer.missing_shards()
    }
    for made in running:
        made.add_done_callback(fetch)
    del made
    counted = {shard.start: 0 for shard in running.values()}
    latest = Report(0, 0, 0.0, 0.0, 0.0)
    try:
        while running:
            new = news.get()
            if isinstance(new, Report):
                latest = new
            else:
                # Forgotten at once: Dask would make again what a lost worker once made.
                shard = running.pop(new.result())
                steps = len(writer.batches(shard)) * run.job.config.steps
                latest = latest._replace(start=shard.start, steps=steps)
            yield from repeat(latest, latest.steps - counted[latest.start])
            counted[latest.start] = max(latest.steps, counted[latest.start])
    finally:
        client.cancel(list(running), force=True)
        arrivals.shutdown(cancel_futures=True)


def _take(made: Any, run: Run, writer: BankWriter, shard: slice) -> Any:
    """The future of a shard, once the shard is here."""
    _raise_error_of(made)
    if run.store and not fetch_shard(writer, shard, run.store):
        raise InputError(
            f"{run.store}: a worker wrote shard {shard.start} there, but here it is not; set"
            " HAST_STORE to a folder or URL that all machines reach"
        )
    return made


def _networks(job: Job) -> dict[str, bytes]:
    """Weights and cards of the networks, by their names in a worker's folder."""
    folders = {"teacher": job.teacher, "generator": job.generator}
    return {
        f"{name}/{file}": (folder / file).read_bytes()
        for name, folder in folders.items()
        for file in (WEIGHTS, CARD)
        if (folder / file).is_file()  # a generator is trained only where something uses it
    }


def _raise_error_of(future: Any) -> None:
    from distributed import KilledWorker

    try:
        future.result()
        return
    except KilledWorker:
        reason = "workers were killed again and again at one shard (out of memory? start fewer)"
    except Exception as error:
        if future.status == "error":
            raise  # what the worker raised
        reason = f"the connection to the Dask scheduler was lost ({first_line(error)})"
    raise TransientError(f"synthesize: {reason}; finished shards are kept: run again")


class _Line:
    """A worker's loop, kept between its shards, so that networks are loaded and compiled once."""

    def __init__(self, run: Run, networks: dict[str, bytes], device: str) -> None:
        self.run = run.key
        self._folder = TemporaryDirectory()
        here = Path(self._folder.name)
        for name, content in networks.items():
            write_atomically(here / name, content)
        job = run.job._replace(
            teacher=here / "teacher",
            generator=here / "generator",
            device=device,
            partial=here if run.store else run.job.partial,
        )
        self.writer = job.writer()
        self.todo: deque[slice] = deque()
        self.steps = make(job, self.writer, iter(self.todo.popleft, None))


_line: _Line | None = None  # of this worker process


def make_shard(run: Run, shard: slice, networks: dict[str, bytes]) -> None:
    """Make one shard in a Dask worker, reporting now and then."""
    global _line
    from distributed import get_worker

    if run.job.name() != run.bank:
        raise InputError(
            f"the Dask worker on {platform.node()} has another version of this program; update"
            " it and start it again"
        )
    # Else the writer would begin another bank.
    if not (run.store or (run.job.partial / f"bank-{run.bank}").is_dir()):
        raise InputError(
            f"a Dask worker does not see {run.job.partial}; set HAST_STORE to a folder or URL"
            " that all workers reach"
        )
    torch.set_num_threads(run.threads)
    if _line is None or _line.run != run.key:
        device, worker = run.job.device, get_worker().name
        if device == "cuda" and isinstance(worker, int):  # local ones, by number, share the GPUs
            device = f"cuda:{worker % torch.cuda.device_count()}"
        _line = _Line(run, networks, device)
    line, _line = _line, None  # a line that failed is not used again
    # It may be there already, by a worker that was killed before it could say so.
    if not line.writer.is_finished(shard):
        line.todo.append(shard)
        reported = time.monotonic()
        for count, step in enumerate(line.steps, start=1):
            if step.is_last or time.monotonic() - reported > _REPORT_EVERY:
                losses = (float(step.loss), float(step.bns), float(step.hard))
                get_worker().log_event(run.key, (shard.start, count, *losses))
                reported = time.monotonic()
            if step.is_last and line.writer.is_finished(shard):
                break
    if run.store:
        send_shard(line.writer, shard, run.store)
    _line = line
