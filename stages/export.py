"""export: write the student in all its forms, and compare each with the student itself."""

from collections.abc import Iterable
from typing import Any

import torch

from hast.bank.teacher import teacher_and_bank
from hast.config.dataset import DatasetConfig
from hast.config.export import ExportConfig
from hast.engine.progress import track
from hast.export import bundle
from hast.export.latency import latency_of, only_a_figure
from hast.files.checkpoints import load, save
from hast.files.datasets import open_batches
from hast.files.students import load_student
from hast.files.tables import Latency, record_latency, write_json
from hast.networks.provenance import spec_and_plan
from hast.networks.size import packed_size
from hast.stages.entry import Bits, Device, In, Out, main, section


def run(
    *,
    bits: Bits,
    inputs: In,
    teacher: In,
    bank: In,
    student: In,
    out: Out,
    metrics: Out,
    device: Device = "auto",
) -> None:
    """Write the packed checkpoint and the formats to OUT, sizes and agreement to METRICS.

    Milliseconds are kept outside DVC, with the wall times. INPUTS only says when to do it again.
    """
    config = section("export", ExportConfig)
    source, samples = teacher_and_bank(teacher, bank, device)
    save(load_student(student, source), out, fold_batch_norm=config.fold_batch_norm)
    product = load(out, trust_source=True)
    images = {"bank": samples.images[: config.samples]}
    files = bundle.write_formats(product, out, config, images["bank"])

    dataset = section("dataset", DatasetConfig)
    batches = open_batches(dataset, "test", source.spec, at_most=config.samples)
    labels = {}
    if len(batches):
        images["test"], labels["test"] = map(torch.cat, zip(*batches, strict=True))
    _, plan = spec_and_plan(product)
    compared = bundle.compare_formats(product, files, images, config, plan.target, labels)
    total = len(images) * sum(len(bundle.programs(name, plan.target)) for name in files)
    results = [*track(compared, total=total, label=f"export {bits}")]
    for result in results:
        bundle.check(result, config, plan)

    if "onnx" in files:
        # In what its target is judged by first, on the test images where there are some: the last.
        first = bundle.programs("onnx", plan.target)[0]
        *_, nearest = (result for result in results if result.program == first)
        bundle.write_card(out, product, config, dataset.crop_fraction, nearest)
    exported = _measures(bundle.bytes_of(out, files), packed_size(source.network), results)
    write_json(metrics, exported)
    if "onnx" in files and (runtime := bundle.runtime_of(plan.target)):
        with only_a_figure(bits):
            found = latency_of(product, files["onnx"], inputs=config.inputs, runtime=runtime)
            record_latency(bits, exported, Latency(runtime, found))


def _measures(
    sizes: dict[str, int], full: int, results: Iterable[bundle.Compared]
) -> dict[str, dict[str, Any]]:
    """By format: bytes, compression against fp32, and agreement by images and program."""
    table: dict[str, dict[str, Any]] = {
        name: {"bytes": size, "compression": full / size} for name, size in sizes.items()
    }
    for name, program, images, parity, _ in results:
        measured = {key: value for key, value in parity._asdict().items() if value is not None}
        table[name].setdefault(images, {})[program] = measured
    return table


if __name__ == "__main__":
    main(run)
