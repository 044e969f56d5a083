"""synthesize: make the bank of hard samples, shard by shard, and profile it."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import zarr
from torch import Tensor

import hast
from hast.bank import BankCard
from hast.config import load_section
from hast.engine import choose_engine, select_device
from hast.loops.profile import bns_profile
from hast.loops.synthesize import SynthesisConfig, SynthesisStep, batch_sizes, synthesize
from hast.networks.fingerprint import fingerprint
from hast.networks.generator import Generator
from hast.networks.plan import forward_macs
from hast.progress import drain
from hast.storage.bank import BankWriter, open_bank
from hast.storage.generators import load_generator
from hast.storage.tables import write_json, write_tsv
from hast.storage.teachers import Teacher, load_teacher
from stages.entry import PARAMS, Compile, Device, In, Out, Params, Precision, main

PARTIAL = Path(".partial")


def run(
    *,
    teacher: In,
    generator: In,
    out: Out,
    metrics: Out,
    profile: Out,
    params: Params = PARAMS,
    device: Device = "auto",
    precision: Precision = "auto",
    compile: Compile = "auto",
) -> None:
    """Write the bank to OUT. Finished shards of a run that was killed are kept."""
    config = load_section(params, "synthesize", SynthesisConfig)
    where = select_device(device)
    source = load_teacher(teacher, where)
    work = forward_macs(source.network, source.spec) * 3 * config.steps * config.samples
    engine = choose_engine(where, work=work, precision=precision, compile=compile)
    init = load_generator(generator, source, where)

    writer = BankWriter(PARTIAL, _card(source, init, config), config.batch_size)
    missing = writer.missing_batches()
    batches = len(batch_sizes(config))
    steps = synthesize(source.network, init, source.spec, config, missing, engine)
    drain(
        _keep(steps, writer),
        total=batches * config.steps,
        done=(batches - len(missing)) * config.steps,
        label="synthesize",
        fields=("loss", "bns", "hard"),
    )
    # Everything that can fail comes before the bank leaves the folder in which it can be resumed.
    bank = open_bank(writer.seal(), teacher=source.card.fingerprint)
    gaps = [*bns_profile(source.network, bank.images, batch_size=config.batch_size)]
    layers = torch.stack(gaps).mean(dim=0).tolist()
    write_tsv(profile, ("layer", "bns_gap"), enumerate(layers))
    write_json(metrics, {"samples": len(bank.images), "bns": sum(layers) / len(layers)})
    writer.publish(out)


def _keep(steps: Iterable[SynthesisStep], writer: BankWriter) -> Iterator[SynthesisStep]:
    """Write every shard as soon as its batches are done; pass the steps on."""
    results: dict[int, tuple[Tensor, Tensor]] = {}
    for step in steps:
        if step.is_last:
            results[step.batch] = (step.images, step.labels)
            shard = writer.shard_of(step.batch)
            if all(index in results for index in writer.batches(shard)):
                done = [results.pop(index) for index in writer.batches(shard)]
                images, labels = (torch.cat(part) for part in zip(*done, strict=True))
                writer.write(shard, images, labels)
        yield step


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
