"""quantize: fine-tune the calibrated, and where asked for reconstructed, student on the bank."""

import torch

from hast.bank.teacher import teacher_and_bank
from hast.config.finetune import FinetuneConfig
from hast.engine.distributed import joined_ranks, launch, launched
from hast.engine.engine import select_device
from hast.files.hardness import load_hardness
from hast.files.partial import PARTIAL, CheckpointFile, name_of
from hast.files.students import StudentCard, load_student
from hast.files.tables import write_json, write_tsv
from hast.files.weights import load_card, save_with_card
from hast.networks.fingerprint import fingerprint
from hast.pipeline.finetune import SHOWN, finetune_student
from hast.pipeline.work import engine_for
from hast.stages.entry import (
    Bits,
    Compile,
    Device,
    In,
    Out,
    Precision,
    Seconds,
    Workers,
    main,
    section,
)


def run(
    *,
    bits: Bits,
    teacher: In,
    reconstructed: In,
    bank: In,
    hardness: In,
    out: Out,
    metrics: Out,
    curve: Out,
    device: Device = "auto",
    precision: Precision = "auto",
    compile: Compile = "auto",
    workers: Workers = 0,
    checkpoint: Seconds = 60.0,
) -> None:
    """Write the student as the last step leaves it to OUT. A run that was killed goes on from its
    last checkpoint and ends with the same student.

    With several workers each computes its part of every batch, and the first one writes.
    """
    options = dict(locals())
    config = section("quantize", FinetuneConfig)
    if workers > 1 and not launched():
        arguments = [f"--{name}={value}" for name, value in options.items()]
        launch(workers, "hast.stages.quantize", arguments)
        return
    with joined_ranks(select_device(device)) as (ranks, where):
        source, samples = teacher_and_bank(teacher, bank, str(where))
        engine = engine_for(
            config, source.network, source.spec, precision=precision, compile=compile
        )
        student = load_student(reconstructed, source)
        difficulty = load_hardness(hardness, bank=samples.card.key())
        name = name_of(
            "hast.stages.quantize", config.model_dump_json(), source.card.fingerprint,
            samples.digest, fingerprint(student.state_dict()),
            fingerprint({"difficulty": difficulty}), engine, where.type, ranks.size,
            str(torch.__version__),
        )  # fmt: skip
        file = CheckpointFile(PARTIAL / f"quantize-{name}.safetensors", every=checkpoint)
        trained = finetune_student(
            student, source.network, source.spec, samples.images, config,
            difficulty=difficulty, engine=engine, ranks=ranks, file=file, label=f"quantize {bits}",
        )  # fmt: skip
    if ranks.rank == 0:
        save_with_card(out, student, load_card(reconstructed, StudentCard))
        write_tsv(curve, *trained.curve.table())
        last = [record for _, record in trained.curve.rows[-1:]]  # none where there are no steps
        losses = {name: float(getattr(r, name)) for r in last for name in SHOWN}
        write_json(metrics, losses | {"kept_step": trained.kept_step, "steps": config.steps})
        file.remove()


if __name__ == "__main__":
    main(run, kept="the last checkpoint is kept in .partial/; the same command goes on from it")
