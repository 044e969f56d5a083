"""quantize: fine-tune the calibrated student on the bank."""

from hast.config import load_section
from hast.engine import choose_engine, select_device
from hast.loops.finetune import WORK_PER_IMAGE, FinetuneConfig, finetune
from hast.networks.blocks import find_blocks
from hast.networks.plan import forward_macs
from hast.progress import track
from hast.storage.bank import open_bank
from hast.storage.hardness import load_hardness
from hast.storage.students import load_student, load_student_card
from hast.storage.tables import Curve, write_json, write_tsv
from hast.storage.teachers import load_teacher
from hast.storage.weights import save_with_card
from stages.entry import PARAMS, Bits, Compile, Device, In, Out, Params, Precision, main

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
    device: Device = "auto",
    precision: Precision = "auto",
    compile: Compile = "auto",
) -> None:
    """Write the student as the last step leaves it to OUT."""
    config = load_section(params, "quantize", FinetuneConfig)
    where = select_device(device)
    source = load_teacher(teacher, where)
    work = (
        forward_macs(source.network, source.spec)
        * WORK_PER_IMAGE
        * config.steps
        * config.batch_size
    )
    engine = choose_engine(where, work=work, precision=precision, compile=compile)
    student = load_student(calibrated, source, where)
    samples = open_bank(bank, teacher=source.card.fingerprint)
    difficulty = load_hardness(hardness, "student_difficulty", bank=samples.card.key())
    blocks = find_blocks(source.network, source.spec, config.alignment_modules)

    kept = Curve(config.steps)
    steps = finetune(student, source.network, samples.images, difficulty, blocks, config, engine)
    for step in track(steps, total=config.steps, label=f"quantize {bits}", fields=_SHOWN):
        kept.add(step)

    save_with_card(out, student, load_student_card(calibrated))
    write_tsv(curve, *kept.table())
    write_json(metrics, {name: float(getattr(step, name)) for name in _SHOWN})


if __name__ == "__main__":
    main(run)
