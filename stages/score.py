"""score: how hard is every sample of the bank for the teacher and the untrained student."""

import torch

from hast.config import load_section
from hast.engine import select_device
from hast.loops.score import SCORED_TOGETHER, Hardness, ScoreConfig, score
from hast.progress import track
from hast.storage.bank import StoredBank
from hast.storage.hardness import save_hardness
from hast.storage.students import load_student
from hast.storage.tables import write_json, write_tsv
from hast.storage.teachers import load_teacher
from stages.entry import PARAMS, Bits, Device, In, Out, Params, main


def run(
    *,
    bits: Bits,
    teacher: In,
    calibrated: In,
    bank: In,
    out: Out,
    metrics: Out,
    histogram: Out,
    params: Params = PARAMS,
    device: Device = "auto",
) -> None:
    """Write one value a sample and measure to OUT."""
    config = load_section(params, "score", ScoreConfig)
    where = select_device(device)
    source = load_teacher(teacher, where)
    student = load_student(calibrated, source, where)
    samples = StoredBank(bank, teacher=source.card.fingerprint, spec=source.spec)

    batches = score(source.network, student, samples.images, samples.labels)
    parts = [
        *track(batches, total=-(-len(samples.images) // SCORED_TOGETHER), label=f"score {bits}")
    ]
    scores = Hardness(*map(torch.cat, zip(*parts, strict=True)))
    save_hardness(out, scores._asdict(), bank=samples.card.key())

    counted = ("difficulty", "student_difficulty")
    counts = [
        torch.histc(getattr(scores, name).cpu(), config.bins, min=0, max=1).long().tolist()
        for name in counted
    ]
    centres = [(i + 0.5) / config.bins for i in range(config.bins)]
    write_tsv(histogram, ("difficulty", "teacher", "student"), zip(centres, *counts, strict=True))
    summary = {f"mean_{name}": values.mean().item() for name, values in scores._asdict().items()}
    hard = {
        f"share_hard_{name}": (getattr(scores, name) > config.hard_above).float().mean().item()
        for name in counted
    }
    write_json(metrics, summary | hard)


if __name__ == "__main__":
    main(run)
