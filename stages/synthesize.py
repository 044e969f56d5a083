"""synthesize: make the bank of hard samples, shard by shard, and profile it."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
import zarr
from torch import Tensor

from hast.bank.cluster import make_with_dask
from hast.bank.pictures import import_pictures
from hast.bank.place import check_free
from hast.bank.shards import Job, default_workers, first_images, make
from hast.bank.stored import StoredBank
from hast.bank.tools import batch_size_of
from hast.bank.transfer import files_at, pull_bank
from hast.bank.writer import BankWriter
from hast.config.bank import BankConfig
from hast.config.synthesize import SynthesisConfig
from hast.engine.engine import select_device
from hast.engine.progress import drain, track
from hast.errors import InputError
from hast.files.tables import read_json, write_json, write_tsv
from hast.files.teachers import Teacher, load_teacher
from hast.loops.profile import Profile, profile_batches, whole_profile
from hast.loops.synthesize import batch_sizes
from hast.networks.classifier import require_batch_norm
from hast.pipeline.bank import bank_card
from hast.pipeline.work import work_of
from hast.stages.entry import Compile, Device, In, Out, Precision, Workers, main, section

Cluster = Annotated[
    str, typer.Option(envvar="HAST_CLUSTER", help="Dask scheduler, such as tcp://host:8786.")
]
Store = Annotated[
    str, typer.Option(envvar="HAST_STORE", help="Folder or URL that all workers of it reach.")
]
Overwrite = Annotated[bool, typer.Option(help="Replace what is at OUT.")]


def run(
    *,
    teacher: In,
    generator: In,
    inputs: In,
    out: Out,
    metrics: Out,
    profile: Out,
    device: Device = "auto",
    precision: Precision = "auto",
    compile: Compile = "auto",
    workers: Workers = 0,
    cluster: Cluster = "",
    store: Store = "",
    overwrite: Overwrite = False,
) -> None:
    """Write the bank to OUT. Finished shards of a run that was killed are kept.

    With `bank.source` that bank, or the pictures there, are taken instead; INPUTS holds their hash.
    With several workers Dask leads them: processes of this machine, or those of CLUSTER.
    """
    check_free(out, overwrite=overwrite)
    config = section("synthesize", SynthesisConfig)
    where = select_device(device)
    source = load_teacher(teacher, where)
    kind = section("bank", BankConfig)
    if kind.source is not None:
        noted = read_json(inputs)
        if noted["pictures"]:
            made = import_pictures(
                Path(kind.source), out, source.network, source.spec, kind, overwrite=overwrite
            )
            _check_unchanged(made.card.pictures()[0]["sha256"], noted["pictures"], kind.source)
            _report(made, metrics, profile)
            return
        _take(kind.source, noted["manifest"], source, out, overwrite=overwrite)
        taken = StoredBank(out)
        _report(_profile(source, taken.batches(batch_size_of(taken.card))), metrics, profile)
        return
    require_batch_norm(source.network, source.spec.input_shape)
    work = work_of(config, source.network, source.spec)
    init = first_images(generator, source, config)

    card = bank_card(
        source.card.fingerprint, source.spec, config, kind.dtype, init, zarr=zarr.__version__
    )
    # Workers of a cluster choose for themselves what `auto` is on their machine.
    name = device if cluster else str(where)
    job = Job(teacher, generator, card, config, name, precision, compile, work)
    writer = job.writer()
    with writer.alone():
        missing = writer.missing_shards()
        batches = len(batch_sizes(config))
        todo = sum(len(writer.batches(shard)) for shard in missing)
        workers = min(workers or default_workers(where), max(1, len(missing)))
        drain(
            make_with_dask(job, writer, workers=workers, address=cluster, store=store)
            if cluster or workers > 1
            else make(job, writer, missing),
            total=batches * config.steps,
            done=(batches - todo) * config.steps,
            label="synthesize",
            fields=("loss", "bns", "hard"),
        )
        # All that can fail comes before the bank leaves the folder in which it can be resumed.
        whole = _profile(source, _batches(writer, config.batch_size))
        sealed = writer.seal(whole.difficulty, whole.bns_gap)
        StoredBank(sealed, teacher=source.card.fingerprint)
        _report(whole, metrics, profile)
        writer.publish(out, overwrite=overwrite)


def _batches(writer: BankWriter, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    for shard in writer.shards():
        images, labels = writer.read(shard)
        yield from zip(images.split(size), labels.split(size), strict=True)


def _profile(source: Teacher, batches: Iterable[tuple[Tensor, Tensor]]) -> Profile:
    parts = profile_batches(source.network, batches)
    return whole_profile(track(parts, total=None, label="profile"))


def _take(source: str, digest: str, teacher: Teacher, out: Out, *, overwrite: bool) -> None:
    """Copy a bank that others made to OUT, verified."""
    fetched = pull_bank(
        source, out, teacher=teacher.card.fingerprint, spec=teacher.spec, overwrite=overwrite
    )
    drain(fetched, total=files_at(source), label="take the bank")
    _check_unchanged(StoredBank(out, verify=False).digest, digest, source)


def _check_unchanged(found: str, noted: str, source: str) -> None:
    if found != noted:
        raise InputError(f"bank.source: {source} changed while the pipeline ran; run again")


def _report(bank: Profile | StoredBank, metrics: Out, profile: Out) -> None:
    """A gap is told where the teacher has BatchNorm."""
    layers = [] if bank.bns_gap is None else bank.bns_gap.tolist()
    write_tsv(profile, ("layer", "bns_gap"), enumerate(layers))
    bns = {"bns": sum(layers) / len(layers)} if layers else {}
    hard = bank.difficulty
    write_json(metrics, {"samples": len(hard), **bns, "difficulty": hard.mean().item()})


if __name__ == "__main__":
    main(run, kept="finished shards are kept in .partial/; the same command makes only the rest")
