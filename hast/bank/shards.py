"""Make the missing shards of a bank: in this process, or with many that Dask leads.

A batch depends on the parameters and on its number alone and shards are disjoint, so the bank is
the same whoever makes them.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from hast.bank.record import BankCard
from hast.bank.writer import BankWriter
from hast.config.synthesize import SynthesisConfig
from hast.engine.engine import Precision, Switch, choose_engine, select_device
from hast.files.generators import load_generator
from hast.files.partial import PARTIAL, name_of
from hast.files.teachers import Teacher, load_teacher
from hast.loops.synthesize import SynthesisStep, synthesize
from hast.networks.generator import Generator


class Job(NamedTuple):
    """What a process needs to make shards of one bank."""

    teacher: Path
    generator: Path
    card: BankCard
    config: SynthesisConfig
    device: str
    precision: Precision
    compile: Switch
    work: float  # multiply-adds of the whole bank
    partial: Path = PARTIAL  # where the unfinished bank is

    def name(self) -> str:
        """Of all that decides the bytes: other inputs or changed code never continue a bank."""
        kind = self.device.partition(":")[0]
        inputs = self.card.model_dump_json(), kind, self.precision, self.compile
        return name_of("hast.stages.synthesize", *inputs)

    def writer(self) -> BankWriter:
        return BankWriter(self.partial, self.card, self.config.batch_size, name=self.name())


def make(job: Job, writer: BankWriter, shards: Iterable[slice]) -> Iterator[SynthesisStep]:
    """Make shards one after the other; each is written as soon as its batches are done."""
    device = select_device(job.device)
    engine = choose_engine(device, work=job.work, precision=job.precision, compile=job.compile)
    source = load_teacher(job.teacher, device)
    init = first_images(job.generator, source, job.config)
    batches = (index for shard in shards for index in writer.batches(shard))
    made: list[tuple[Tensor, Tensor]] = []  # of the shard at hand
    for step in synthesize(source.network, init, source.spec, job.config, batches, engine):
        if step.is_last:
            made.append((step.images, step.labels))
            shard = writer.shard_of(step.batch)
            if step.batch == writer.batches(shard)[-1]:
                images, labels = (torch.cat(part) for part in zip(*made, strict=True))
                writer.write(shard, images, labels)
                made.clear()
        yield step


def first_images(folder: Path, source: Teacher, config: SynthesisConfig) -> Generator | None:
    """The generator whose images the pixels start from, where they do."""
    return load_generator(folder, source) if config.init == "generator" else None


def default_workers(device: torch.device) -> int:
    """One for each GPU that `device` leaves open; a CPU is busy with one."""
    return torch.cuda.device_count() if device == torch.device("cuda") else 1
