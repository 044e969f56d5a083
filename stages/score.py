"""score: how hard is every sample of the bank for the calibrated, untrained student.

It finds the samples harder than the teacher does, the more so the fewer its bits; where sampling
goes by difficulty, it is this one.
"""

import torch

from hast.bank.teacher import teacher_and_bank
from hast.files.hardness import save_hardness
from hast.files.students import load_student
from hast.files.tables import write_json, write_tsv
from hast.loops.evaluate import TOGETHER, predict_all
from hast.stages.entry import Bits, Device, In, Out, main

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
    """Write one value a sample to OUT; the teacher's are the bank's own."""
    source, samples = teacher_and_bank(teacher, bank, device)
    student = load_student(calibrated, source)

    batches, total = samples.batches(TOGETHER), -(-len(samples) // TOGETHER)
    said = predict_all({"student": student}, batches, total=total, label=f"score {bits}")
    difficulty = said.by_network["student"].difficulty
    save_hardness(out, difficulty, bank=samples.card.key())

    by_network = {"teacher": samples.difficulty, "student": difficulty}
    counts = [torch.histc(v, _BINS, min=0, max=1).long().tolist() for v in by_network.values()]
    centres = [(i + 0.5) / _BINS for i in range(_BINS)]
    write_tsv(histogram, ("difficulty", *by_network), zip(centres, *counts, strict=True))
    write_json(metrics, {f"mean_{name}": v.mean().item() for name, v in by_network.items()})


if __name__ == "__main__":
    main(run)
