"""Synthesis of one bank by several processes, and the cost of sending shards through a store.

    python -m bench.scaling 1 2

ResNet-20 at 32 x 32, batches of 64. Every process has one thread, so that two of them do not share
a core. CPU seconds are those of all workers: where they grow with the number of processes, these
hinder each other. The last line is what one shard of large images costs beside its computation.
"""

import os
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
import typer

from hast.bank.cluster import make_with_dask
from hast.bank.record import BankCard
from hast.bank.shards import Job
from hast.bank.transfer import fetch_shard, send_shard
from hast.bank.writer import BankWriter
from hast.config.spec import ModelSpec
from hast.config.synthesize import SynthesisConfig
from hast.engine.engine import select_device
from hast.files.teachers import load_teacher, save_teacher
from hast.networks.batch_norm import freeze
from hast.networks.sources import build_network

SOURCE = "pytorchcv:resnet20_cifar10"
SPEC = ModelSpec(input_shape=(3, 32, 32), num_classes=10, mean=(0.5,) * 3, std=(0.25,) * 3)
CONFIG = SynthesisConfig(samples=1024, batch_size=64, steps=6)


def main(
    workers: list[int] = typer.Argument(default=None),  # noqa: B008
    device: str = "cpu",
) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        write_teacher(here / "teacher")
        print(f"{SOURCE}, {CONFIG.samples} images x {CONFIG.steps} steps, one thread a process")
        alone = None
        for number in workers or [1, 2]:
            before = children_cpu()
            started, finished = synthesis(here, number, device)
            used = children_cpu() - before
            alone = alone or finished
            print(
                f"{number} processes: {started:.1f} s to the first step, then {finished:.1f} s"
                f" ({alone / finished:.2f}x), {used:.1f} CPU seconds"
            )
        written, sent, fetched, size = store(here)
        print(
            f"one shard of {size / 1e6:.0f} MB: {written:.2f} s to write, {sent:.2f} s to send,"
            f" {fetched:.2f} s to fetch"
        )


def write_teacher(folder: Path) -> None:
    torch.manual_seed(0)
    save_teacher(folder, freeze(build_network(SOURCE, {}).network), SPEC, SOURCE, {})


def job_of(
    folder: Path, partial: Path, config: SynthesisConfig = CONFIG, spec: ModelSpec = SPEC,
    device: str = "cpu",
) -> Job:  # fmt: skip
    """Of the teacher in a folder, in fp32 and not compiled."""
    teacher = load_teacher(folder / "teacher", select_device("cpu"))
    card = BankCard(
        samples=config.samples, spec=spec, teacher=teacher.card.fingerprint,
        synthesis=config.model_dump(),
    )  # fmt: skip
    networks = folder / "teacher", folder / "generator"
    return Job(*networks, card, config, device, "fp32", "off", 0.0, partial)


def synthesis(folder: Path, workers: int, device: str) -> tuple[float, float]:
    """Seconds from the call to the first step, and from there to the last shard."""
    job = job_of(folder, folder / f"partial-{workers}", device=device)
    writer = job.writer()
    start = time.monotonic()
    steps = make_with_dask(job, writer, workers=workers)
    next(steps)
    first = time.monotonic()
    for _ in steps:
        last = time.monotonic()
    return first - start, last - first


def store(folder: Path) -> tuple[float, float, float, int]:
    """Seconds to write, send and fetch a shard of 256 images of 224 x 224 through a folder of
    this disk, and its bytes."""
    spec = SPEC.model_copy(update={"input_shape": (3, 224, 224)})
    card = BankCard(samples=1024, spec=spec, teacher="", synthesis={})
    here, there = (BankWriter(folder / name, card, 256) for name in ("here", "there"))
    written: list[float] = []
    sent: list[float] = []
    fetched: list[float] = []
    for shard in here.shards():
        images, labels = torch.randn(256, 3, 224, 224), torch.zeros(256, dtype=torch.int64)
        with timed(written):
            here.write(shard, images, labels)
        with timed(sent):
            send_shard(here, shard, str(folder / "store"))
        with timed(fetched):
            fetch_shard(there, shard, str(folder / "store"))
    size = sum(os.path.getsize(here.folder / f) for f in here.shard_files(here.shards()[0]))
    return median(written), median(sent), median(fetched), size


def children_cpu() -> float:
    """Seconds used by all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def timed(into: list[float]) -> Iterator[None]:
    start = time.monotonic()
    yield
    into.append(time.monotonic() - start)


if __name__ == "__main__":
    typer.run(main)
