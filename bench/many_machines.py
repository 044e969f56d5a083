"""Synthesis of one bank by many machines, simulated: what do the hours and the store look like?

    python -m bench.many_machines --calibrate
    python -m bench.many_machines --workers 64 --shards 1172 --shard-seconds 111 --losses 8

Real are the Dask scheduler, the worker processes, and all that `make_with_dask` does: tasks,
reports, transfers with their retries, lost workers. A worker sleeps instead of synthesizing, its
images have one pixel, and a request to the store takes its latency and, for the images of a shard,
the time that the real file would take; it is lost now and then. All of this runs `--faster` times
too fast, so that what Dask and this program cost for a task weighs that much more than it would.

`--calibrate` makes a small bank by two real workers, and again by two that sleep for as long as a
shard took in a real bank of four shards: both must take equally long.
"""

import asyncio
import json
import logging
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import patch

import fsspec
import torch
import typer
from distributed import Client, Worker
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from bench.scaling import CONFIG, SPEC, job_of, write_teacher
from hast.bank import cluster, remote
from hast.bank.shards import Job
from hast.bank.writer import BankWriter
from hast.config.synthesize import SynthesisConfig
from hast.loops.synthesize import SynthesisStep

_AWAY = 300.0  # seconds until a machine that was lost comes back
_NAP = 0.05  # shorter ones would keep the processor busy


class Pace(NamedTuple):
    """How long what is not done would have taken, in seconds of the simulation."""

    shard: float
    latency: float = 0.0  # of a request
    byte: float = 0.0  # of the file of a shard's images, where it has one byte
    lost: float = 0.0  # share of the requests
    requests: str = ""  # folder, see `SlowStore`
    faster: float = 1.0  # than real life all of these are


class SlowStore(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A folder as an object store far away; each request leaves a byte in a file of its kind."""

    protocol = "slow"
    cachable = False
    pace: Pace  # of this process
    _disk = LocalFileSystem()

    def _asked(self, kind: str, *, size: float = 0.0) -> None:
        with (Path(self.pace.requests) / kind).open("ab") as file:
            file.write(b".")
        time.sleep(self.pace.latency + size * self.pace.byte)
        if random.random() < self.pace.lost:
            raise OSError("the request was lost")

    def info(self, path: str, **_: Any) -> Any:
        self._asked("look")
        return self._disk.info(path)

    def find(self, path: str, **_: Any) -> Any:
        self._asked("list")
        return self._disk.find(path)

    def cat_file(self, path: str, **_: Any) -> Any:
        self._asked("get")
        return self._disk.cat_file(path)

    def open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        found = self._disk.open(path, mode)  # what is missing is no transfer
        self._asked("get", size=_size(path))
        return found

    def get_file(self, path: str, target: str, **_: Any) -> None:
        self._asked("get", size=_size(path))
        self._disk.get_file(path, target)

    def put_file(self, source: str, path: str, **_: Any) -> None:
        self._asked("put", size=_size(path))
        self._disk.put_file(source, path)

    def pipe_file(self, path: str, value: bytes, **_: Any) -> None:
        self._asked("put")
        self._disk.pipe_file(path, value)

    def rm(self, path: str, **_: Any) -> None:
        self._asked("remove")
        self._disk.rm(path, recursive=True)

    def makedirs(self, path: str, **_: Any) -> None:
        self._disk.makedirs(path, exist_ok=True)  # an object store has no folders


fsspec.register_implementation("slow", SlowStore)


def _size(path: str) -> float:
    return float("/images/" in path)


def sleeping(
    pace: Pace, job: Job, writer: BankWriter, shards: Iterable[slice]
) -> Iterator[SynthesisStep]:
    """As `hast.bank.shards.make`, with naps for steps and zeros for images."""
    nothing = torch.zeros(())
    for shard in shards:
        start, batches = time.monotonic(), writer.batches(shard)
        total = len(batches) * job.config.steps
        for done in range(1, total + 1):
            ahead = start + pace.shard * done / total - time.monotonic()
            if ahead > _NAP or done == total:
                time.sleep(max(0.0, ahead))
            index, rest = divmod(done, job.config.steps)
            if done == total:
                size = shard.stop - shard.start
                images = torch.zeros(size, *job.card.spec.input_shape)
                writer.write(shard, images, torch.zeros(size, dtype=torch.int64))
            yield SynthesisStep(batches[index - (not rest)], not rest, *[nothing] * 5)


def work(address: str, name: str, pace: Pace | None) -> None:
    """Be one worker until the end; without a pace it really works."""
    torch.set_num_threads(1)
    logging.getLogger("distributed").setLevel(logging.ERROR)
    set_pace(pace)

    async def run() -> None:
        worker = Worker(address, nthreads=1, name=name, dashboard=False, host="127.0.0.1")
        async with worker:
            await worker.finished()

    asyncio.run(run())


def set_pace(pace: Pace | None) -> None:
    """Let this process sleep, and wait for the store, at this pace."""
    if pace:
        patch.object(cluster, "make", partial(sleeping, pace)).start()
        SlowStore.pace = pace
        remote._WAITS = tuple(wait / pace.faster for wait in remote._WAITS)  # type: ignore[assignment]


class Farm:
    """A scheduler and workers of this machine that do not end with a task."""

    def __init__(self, folder: Path, workers: int, pace: Pace | None) -> None:
        where = folder / "scheduler.json"
        self.scheduler = subprocess.Popen(
            [sys.executable, "-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0",
             "--no-dashboard", "--scheduler-file", str(where)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while not where.is_file():
            time.sleep(0.1)
        self.address: str = json.loads(where.read_text())["address"]
        self._pace, self._context = pace, multiprocessing.get_context("forkserver")
        self._workers = [self._start(str(number)) for number in range(workers)]
        with Client(self.address) as client:
            client.wait_for_workers(workers, timeout=300)

    def _start(self, name: str) -> BaseProcess:
        process = self._context.Process(
            target=work, args=(self.address, name, self._pace), daemon=True
        )
        process.start()
        return process

    def lose_one(self) -> None:
        """Kill -9 a worker; another takes its place later."""
        assert self._pace, "real machines are not lost here"
        process = self._workers.pop(random.randrange(len(self._workers)))
        process.kill()
        timer = threading.Timer(
            _AWAY / self._pace.faster,
            lambda: self._workers.append(self._start(f"new-{time.time()}")),
        )
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        for process in self._workers:
            process.kill()
        self.scheduler.kill()
        self.scheduler.wait()


def peak_memory(process: int) -> float:
    """MB that a process had at most."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


def simulate(
    folder: Path, config: SynthesisConfig, *, workers: int, pace: Pace, losses: int
) -> dict[str, Any]:
    """What making a bank took, in seconds of real life, and whom it burdened."""
    Path(pace.requests).mkdir()
    set_pace(pace)
    write_teacher(folder / "teacher")
    spec = SPEC.model_copy(update={"input_shape": (3, 1, 1)})
    job = job_of(folder, folder / "partial", config, spec)
    writer = job.writer()
    before = peak_memory(os.getpid())
    with closing(Farm(folder, workers, pace)) as machines:
        start = time.monotonic()
        expected = len(writer.shards()) * pace.shard / workers
        lost = sorted(random.uniform(0, expected) for _ in range(losses))
        first = 0.0
        store = f"slow://{folder}/store"
        for _ in cluster.make_with_dask(
            job, writer, workers=workers, address=machines.address, store=store
        ):
            first = first or time.monotonic()
            while lost and time.monotonic() > first + lost[0]:
                lost.pop(0)
                machines.lose_one()
        end = time.monotonic()
        scheduler = peak_memory(machines.scheduler.pid)
    assert not writer.missing_shards(), "the bank is whole"
    asked = {path.name: path.stat().st_size for path in sorted(Path(pace.requests).iterdir())}
    return {
        "seconds": pace.faster * (end - start), "to_the_first_step": pace.faster * (first - start),
        "seconds_of_even_work": pace.faster * expected, "scheduler_mb": scheduler,
        "client_mb_more": peak_memory(os.getpid()) - before, "requests": asked,
    }  # fmt: skip


def really(folder: Path, config: SynthesisConfig, workers: int) -> tuple[float, list[float]]:
    """Seconds from the first step of a real synthesis to its end, and those of each shard."""
    folder.mkdir()
    write_teacher(folder / "teacher")
    job = job_of(folder, folder / "partial", config)
    seen: dict[int, list[float]] = {}
    with closing(Farm(folder, workers, None)) as machines:
        for report in cluster.make_with_dask(
            job, job.writer(), workers=workers, address=machines.address, store=f"{folder}/store"
        ):
            seen.setdefault(report.start, []).append(time.monotonic())
    times = sorted(moment for moments in seen.values() for moment in moments)
    return times[-1] - times[0], [moments[-1] - moments[0] for moments in seen.values()]


def calibrate(folder: Path) -> dict[str, float]:
    """Seconds of two real workers and of two that sleep, for three times the shards that told how
    long to sleep."""
    shorter = CONFIG.model_copy(update={"samples": 4 * 1024, "steps": 3})
    _, shards = really(folder / "short", shorter, 2)
    longer = shorter.model_copy(update={"samples": 12 * 1024})  # shards of the same size
    seconds, _ = really(folder / "long", longer, 2)
    (folder / "asleep").mkdir()
    pace = Pace(median(shards), requests=str(folder / "asleep/requests"))
    found = simulate(folder / "asleep", longer, workers=2, pace=pace, losses=0)
    simulated = found["seconds"] - found["to_the_first_step"]
    return {
        "shard": pace.shard, "real": seconds, "simulated": simulated, "ratio": simulated / seconds
    }  # fmt: skip


def main(
    workers: int = 64,
    shards: int = 1172,
    shard_seconds: float = 111.0,
    steps: int = 1000,
    latency: float = typer.Option(0.05, help="Of a request to the store, seconds."),
    bandwidth: float = typer.Option(100.0, help="Of one transfer, MB/s."),
    shard_mb: float = 154.0,
    lost: float = typer.Option(0.01, help="Share of the requests that fail."),
    losses: int = typer.Option(0, help="Workers that are killed; they return after five minutes."),
    faster: float = typer.Option(10.0, help="Than real life."),
    seed: int = 0,
    calibrate_only: bool = typer.Option(False, "--calibrate"),
) -> None:
    random.seed(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if calibrate_only:
            print(json.dumps(calibrate(folder), indent=2))
            return
        pace = Pace(
            shard_seconds / faster, latency / faster, shard_mb / bandwidth / faster, lost,
            f"{folder}/requests", faster,
        )  # fmt: skip
        config = SynthesisConfig(samples=1024 * shards, batch_size=256, steps=steps)
        found = simulate(folder, config, workers=workers, pace=pace, losses=losses)
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    typer.run(main)
