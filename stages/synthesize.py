"""synthesize: make the bank of hard samples, shard by shard, and profile it."""

from collections.abc import Iterator
from pathlib import Path

import torch
import zarr

import hast
from hast.bank import BankCard
from hast.config import load_section
from hast.loops.profile import bns_profile
from hast.loops.synthesize import SynthesisConfig, SynthesisStep, batch_sizes, synthesize_batch
from hast.networks.fingerprint import fingerprint
from hast.networks.generator import Generator
from hast.progress import drain
from hast.runtime import select_device
from hast.storage.bank import BankWriter, open_bank
from hast.storage.generators import load_generator
from hast.storage.tables import write_json, write_tsv
from hast.storage.teachers import Teacher, load_teacher
from stages.entry import PARAMS, In, Out, Params, main

PARTIAL = Path(".partial")


def run(
    *,
    teacher: In,
    generator: In,
    out: Out,
    metrics: Out,
    profile: Out,
    params: Params = PARAMS,
) -> None:
    """Write the bank to OUT. Finished shards of a run that was killed are kept."""
    config = load_section(params, "synthesize", SynthesisConfig)
    device = select_device()
    source = load_teacher(teacher, device)
    init = load_generator(generator, source, device)

    writer = BankWriter(PARTIAL, _card(source, init, config), config.batch_size)
    batches = batch_sizes(config)
    kept = sum(len(writer.batches(s)) for s in writer.shards() if writer.is_finished(s))
    drain(
        _fill(writer, source, init, config),
        total=len(batches) * config.steps,
        done=kept * config.steps,
        label="synthesize",
        fields=("loss", "bns", "hard"),
    )
    writer.finish(out)

    bank = open_bank(out, teacher=source.card.fingerprint)
    gaps = [*bns_profile(source.network, bank.images, batch_size=config.batch_size)]
    layers = torch.stack(gaps).mean(dim=0).tolist()
    write_tsv(profile, ("layer", "bns_gap"), enumerate(layers))
    write_json(metrics, {"samples": len(bank.images), "bns": sum(layers) / len(layers)})


def _fill(
    writer: BankWriter, source: Teacher, init: Generator, config: SynthesisConfig
) -> Iterator[SynthesisStep]:
    """Make what is missing; a shard is written as soon as its batches are done."""
    for shard in writer.shards():
        if writer.is_finished(shard):
            continue
        results = []
        for index in writer.batches(shard):
            for step in synthesize_batch(source.network, init, source.spec, config, index):
                yield step
            results.append(step)
        writer.write(
            shard, torch.cat([r.images for r in results]), torch.cat([r.labels for r in results])
        )


def _card(source: Teacher, init: Generator, config: SynthesisConfig) -> BankCard:
    starts_from_generator = config.init == "generator"
    return BankCard(
        samples=config.samples,
        spec=source.spec,
        teacher=source.card.fingerprint,
        synthesis=config.model_dump(),
        generator=fingerprint(init.state_dict()) if starts_from_generator else None,
        libraries={module.__name__: str(module.__version__) for module in (hast, torch, zarr)},
    )


if __name__ == "__main__":
    main(run)
