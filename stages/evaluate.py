"""evaluate: measure teacher, calibrated and fine-tuned student on the test split, in fp32.

Nothing it writes reaches a stage that trains. The same
measures on the bank say how far the student's fidelity carries beyond what it was trained on.
"""

from typing import Any

from hast.bank.teacher import teacher_and_bank
from hast.config.dataset import DatasetConfig
from hast.files.answers import TEACHER, load_answers
from hast.files.datasets import open_batches
from hast.files.students import load_student
from hast.files.tables import write_json, write_tsv
from hast.loops.evaluate import TOGETHER, Predictions, predict_all
from hast.loops.layer_errors import LayerError, measure_layer_errors
from hast.networks.size import packed_size
from hast.stages.entry import Bits, Device, In, Out, main, section

_COMPARED = 256  # images of the bank on which layers are compared


def run(
    *,
    bits: Bits,
    inputs: In,
    teacher: In,
    answers: In,
    bank: In,
    calibrated: In,
    student: In,
    predictions: Out,
    layers: Out,
    metrics: Out,
    device: Device = "auto",
) -> None:
    """Write accuracy, agreement and size of each network to METRICS, one row a test image to
    PREDICTIONS, one row a layer to LAYERS.

    INPUTS only says when to do it again.
    """
    config = section("dataset", DatasetConfig)
    source, samples = teacher_and_bank(teacher, bank, device)
    folders = {"calibrated": calibrated, "student": student}
    networks = {name: load_student(folder, source) for name, folder in folders.items()}

    images = open_batches(config, "test", source.spec)
    test = predict_all(networks, images, total=len(images), label=f"evaluate {bits}")
    parts = -(-len(samples) // TOGETHER)
    label = f"evaluate {bits} on the bank"
    on_bank = predict_all(networks, samples.batches(TOGETHER), total=parts, label=label)
    test, on_bank = (
        Predictions(seen.labels, load_answers(answers, name, seen.labels) | seen.by_network)
        for name, seen in (("test", test), ("bank", on_bank))
    )
    write_tsv(predictions, *_table(test))
    networks = {TEACHER: source.network, **networks}
    measured: dict[str, Any] = {}
    for name, network in networks.items():
        size = {"size_bytes": packed_size(network), "samples": len(test.labels)}
        measured[name] = _measures(test, name) | size
    on_samples = {name: _measures(on_bank, name) for name in networks}
    write_json(metrics, measured | {"bank": on_samples})
    errors = measure_layer_errors(source.network, networks["student"], samples.images[:_COMPARED])
    write_tsv(layers, LayerError._fields, errors)


def _measures(seen: Predictions, name: str) -> dict[str, float]:
    """Shares in [0, 1]; nothing where there were no images."""
    if not len(seen.labels):
        return {}
    shares = seen.evaluation(name, reference=TEACHER)._asdict()
    return {key: shares[key] for key in ("top1", "top5", "agreement")}


def _table(seen: Predictions) -> tuple[list[str], Any]:
    """The label, then every network's answer and its difficulty, one row an image."""
    columns = {"label": seen.labels}
    for name, said in seen.by_network.items():
        columns |= {name: said.answer, f"{name}_difficulty": said.difficulty}
    return [*columns], zip(*(column.tolist() for column in columns.values()), strict=True)


if __name__ == "__main__":
    main(run)
