"""quantize: fine-tune the calibrated student on the bank."""

from hast.config import load_section
from hast.loops.finetune import FinetuneConfig, finetune
from hast.networks.blocks import find_blocks
from hast.progress import track
from hast.runtime import select_device
from hast.storage.bank import open_bank
from hast.storage.hardness import load_hardness
from hast.storage.students import load_student, load_student_card
from hast.storage.tables import Curve, write_json, write_tsv
from hast.storage.teachers import load_teacher
from hast.storage.weights import save_with_card
from stages.entry import PARAMS, Bits, In, Out, Params, main

_SHOWN = ("loss", "distillation", "alignment")


def run(
    *,
    bits: Bits,
    teacher: In,
    calibrated: In,
    bank: In,
    hardness: In,
    out: Out,
    metrics: Out,
    curve: Out,
    params: Params = PARAMS,
) -> None:
    """Write the student as the last step leaves it to OUT."""
    config = load_section(params, "quantize", FinetuneConfig)
    device = select_device()
    source = load_teacher(teacher, device)
    student = load_student(calibrated, source, device)
    samples = open_bank(bank, teacher=source.card.fingerprint)
    difficulty = load_hardness(hardness, "student_difficulty", bank=samples.card.key())
    blocks = find_blocks(source.network, source.spec, config.alignment_modules)

    kept = Curve(config.steps)
    steps = finetune(student, source.network, samples.images, difficulty, blocks, config)
    for step in track(steps, total=config.steps, label=f"quantize {bits}", fields=_SHOWN):
        kept.add(step)

    save_with_card(out, student, load_student_card(calibrated))
    write_tsv(curve, *kept.table())
    write_json(metrics, {name: float(getattr(step, name)) for name in _SHOWN})


if __name__ == "__main__":
    main(run)
