"""synthesize: make the bank of hard samples, shard by shard, and profile it."""

import torch
import zarr

import hast
from hast.bank import BankCard
from hast.config import load_section
from hast.engine import select_device
from hast.loops.profile import bns_profile
from hast.loops.synthesize import SynthesisConfig, batch_sizes
from hast.networks.fingerprint import fingerprint
from hast.networks.generator import Generator
from hast.networks.plan import forward_macs
from hast.progress import drain
from hast.storage.bank import open_bank
from hast.storage.generators import load_generator
from hast.storage.tables import write_json, write_tsv
from hast.storage.teachers import Teacher, load_teacher
from stages.cluster import make_with_dask
from stages.entry import (
    PARAMS,
    Cluster,
    Compile,
    Device,
    In,
    Out,
    Params,
    Precision,
    Store,
    Workers,
    main,
)
from stages.shards import Job, default_workers, make


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
    workers: Workers = 0,
    cluster: Cluster = "",
    store: Store = "",
) -> None:
    """Write the bank to OUT. Finished shards of a run that was killed are kept.

    With several workers Dask leads them: processes of this machine, or those of CLUSTER.
    """
    config = load_section(params, "synthesize", SynthesisConfig)
    where = select_device(device)
    source = load_teacher(teacher, where)
    work = forward_macs(source.network, source.spec) * 3 * config.steps * config.samples
    init = load_generator(generator, source, where)

    card = _card(source, init, config)
    # Workers of a cluster choose for themselves what `auto` is on their machine.
    name = device if cluster else str(where)
    job = Job(teacher, generator, card, config, name, precision, compile, work)
    writer = job.writer()
    missing = sum(len(writer.batches(shard)) for shard in writer.missing_shards())
    batches = len(batch_sizes(config))
    workers = min(workers or default_workers(where), max(1, len(writer.missing_shards())))
    drain(
        make_with_dask(job, writer, workers=workers, address=cluster, store=store)
        if cluster or workers > 1
        else make(job, writer, writer.missing_shards()),
        total=batches * config.steps,
        done=(batches - missing) * config.steps,
        label="synthesize",
        fields=("loss", "bns", "hard"),
    )
    # Everything that can fail comes before the bank leaves the folder in which it can be resumed.
    bank = open_bank(writer.seal(), teacher=source.card.fingerprint, in_memory=False)
    gaps = [*bns_profile(source.network, bank.images, batch_size=config.batch_size)]
    layers = torch.stack(gaps).mean(dim=0).tolist()
    write_tsv(profile, ("layer", "bns_gap"), enumerate(layers))
    write_json(metrics, {"samples": len(bank.images), "bns": sum(layers) / len(layers)})
    writer.publish(out)


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
    main(run, kept="finished shards are kept in .partial/; the same command makes only the rest")
