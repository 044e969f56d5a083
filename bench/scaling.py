"""Synthesis of one bank by several processes, and the cost of sending shards through a store.

    python -m bench.scaling 1 2

ResNet-20 at 32 x 32, batches of 64. Every process has one thread, so that two of them do not share
a core. The last line is what one shard costs beside its computation.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
import typer

from bench.memory import SOURCE, SPEC, prepare
from hast.bank import BankCard
from hast.engine import select_device
from hast.loops.synthesize import SynthesisConfig
from hast.storage.bank_writer import BankWriter
from hast.storage.exchange import Exchange
from hast.storage.teachers import load_teacher
from stages.cluster import make_with_dask
from stages.shards import Job

CONFIG = SynthesisConfig(samples=2048, batch_size=64, steps=40)


def main(workers: list[int] = typer.Argument(default=None)) -> None:  # noqa: B008
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        prepare(here, CONFIG.samples)
        print(f"{SOURCE}, {CONFIG.samples} images x {CONFIG.steps} steps, one thread a process")
        alone = None
        for number in workers or [1, 2]:
            started, finished, writer = synthesis(here, number)
            alone = alone or finished
            print(
                f"{number} processes: {started:.1f} s to the first step, then {finished:.1f} s"
                f" ({alone / finished:.2f}x)"
            )
        sent, fetched, size = store(writer, here)
        print(f"one shard of {size / 1e6:.1f} MB: {sent:.3f} s to send, {fetched:.3f} s to fetch")


def synthesis(folder: Path, workers: int) -> tuple[float, float, BankWriter]:
    """Seconds from the call to the first step, and from there to the last shard."""
    teacher = load_teacher(folder / "teacher", select_device("cpu"))
    card = BankCard(
        samples=CONFIG.samples, spec=SPEC, teacher=teacher.card.fingerprint,
        synthesis=CONFIG.model_dump(),
    )  # fmt: skip
    partial = folder / f"partial-{workers}"
    job = Job(
        folder / "teacher", folder / "generator", card, CONFIG, "cpu", "fp32", "off", 0.0, partial
    )
    writer = job.writer()
    start = time.monotonic()
    steps = make_with_dask(job, writer, workers=workers)
    next(steps)
    first = time.monotonic()
    for _ in steps:
        last = time.monotonic()
    return first - start, last - first, writer


def store(writer: BankWriter, folder: Path) -> tuple[float, float, int]:
    """Seconds to send and to fetch a shard through a folder, and its bytes."""
    exchange = Exchange.of(str(folder / "store"), "bench")
    sent: list[float] = []
    fetched: list[float] = []
    for shard in writer.shards():
        with timed(sent):
            exchange.send_shard(writer, shard)
        with timed(fetched):
            exchange.fetch_shard(writer, shard)
    files = writer.shard_files(writer.shards()[0])
    return median(sent), median(fetched), sum(os.path.getsize(writer.folder / f) for f in files)


@contextmanager
def timed(into: list[float]) -> Iterator[None]:
    start = time.monotonic()
    yield
    into.append(time.monotonic() - start)


if __name__ == "__main__":
    typer.run(main)
