"""quantize: fine-tune the calibrated student on the bank."""

from hast.config import load_section
from hast.distributed import joined_ranks, launch, launched
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
from stages.entry import PARAMS, Bits, Compile, Device, In, Out, Params, Precision, Workers, main

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
    workers: Workers = 0,
) -> None:
    """Write the student as the last step leaves it to OUT.

    With several workers each computes its part of every batch, and the first one writes.
    """
    options = dict(locals())
    config = load_section(params, "quantize", FinetuneConfig)
    if workers > 1 and not launched():
        launch(workers, "stages.quantize", [f"--{name}={value}" for name, value in options.items()])
        return
    with joined_ranks(select_device(device)) as (ranks, where):
        source = load_teacher(teacher, where)
        images = config.steps * config.batch_size
        work = forward_macs(source.network, source.spec) * WORK_PER_IMAGE * images
        engine = choose_engine(where, work=work, precision=precision, compile=compile)
        student = load_student(calibrated, source, where)
        samples = open_bank(bank, teacher=source.card.fingerprint)
        difficulty = load_hardness(hardness, "student_difficulty", bank=samples.card.key())
        blocks = find_blocks(source.network, source.spec, config.alignment_modules)

        kept = Curve(config.steps)
        steps = finetune(
            student, source.network, samples.images, difficulty, blocks, config, engine, ranks
        )
        first = ranks.rank == 0
        label = f"quantize {bits}"
        for step in track(steps, total=config.steps, label=label, fields=_SHOWN, show=first):
            kept.add(step)
    if first:
        save_with_card(out, student, load_student_card(calibrated))
        write_tsv(curve, *kept.table())
        write_json(metrics, {name: float(getattr(step, name)) for name in _SHOWN})


if __name__ == "__main__":
    main(run)
