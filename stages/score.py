"""score: how hard is every sample of the bank for the teacher and the untrained student."""

import torch

from hast.engine import select_device
from hast.loops.score import SCORED_TOGETHER, Hardness, score
from hast.progress import track
from hast.storage.bank import open_bank
from hast.storage.hardness import save_hardness
from hast.storage.students import load_student
from hast.storage.tables import write_json, write_tsv
from hast.storage.teachers import load_teacher
from stages.entry import Bits, Device, In, Out, main

_BINS = 20  # of the histogram, over [0, 1]


def run(
    *,
    bits: Bits,
    teacher: In,
    calibrated: In,
    bank: In,
    out: Out,
    metrics: Out,
    histogram: Out,
    device: Device = "auto",
) -> None:
    """Write one value a sample and measure to OUT."""
    where = select_device(device)
    source = load_teacher(teacher, where)
    student = load_student(calibrated, source, where)
    samples = open_bank(bank, teacher=source.card.fingerprint, spec=source.spec)

    batches = score(source.network, student, samples.images, samples.labels)
    parts = [
        *track(batches, total=-(-len(samples.images) // SCORED_TOGETHER), label=f"score {bits}")
    ]
    scores = Hardness(*map(torch.cat, zip(*parts, strict=True)))
    save_hardness(out, scores._asdict(), bank=samples.card.key())

    counts = [torch.histc(v.cpu(), _BINS, min=0, max=1).long().tolist() for v in scores]
    centres = [(i + 0.5) / _BINS for i in range(_BINS)]
    write_tsv(histogram, ("difficulty", "teacher", "student"), zip(centres, *counts, strict=True))
    means = {f"mean_{name}": values.mean().item() for name, values in scores._asdict().items()}
    write_json(metrics, means)


if __name__ == "__main__":
    main(run)
