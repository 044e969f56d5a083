"""quantize: fine-tune the calibrated, and where asked for reconstructed, student on the bank."""

import torch

from hast.bank.stored import StoredBank
from hast.config.finetune import FinetuneConfig
from hast.engine.distributed import joined_ranks, launch, launched
from hast.engine.engine import select_device
from hast.engine.progress import track
from hast.files.hardness import load_hardness
from hast.files.partial import PARTIAL, CheckpointFile, name_of
from hast.files.students import StudentCard, load_student
from hast.files.tables import Curve, write_json, write_tsv
from hast.files.teachers import load_teacher
from hast.files.weights import load_card, save_with_card
from hast.loops.finetune import FinetuneStep, finetune, start_finetuning
from hast.networks.biases import round_biases
from hast.networks.blocks import find_blocks
from hast.networks.fingerprint import fingerprint
from hast.pipeline.finetune import held_back_part
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

_SHOWN = ("loss", "distillation", "alignment")


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
        launch(
            workers,
            "hast.stages.quantize",
            [f"--{name}={value}" for name, value in options.items()],
        )
        return
    with joined_ranks(select_device(device)) as (ranks, where):
        source = load_teacher(teacher, where)
        engine = engine_for(
            config, source.network, source.spec, precision=precision, compile=compile
        )
        student = load_student(reconstructed, source)
        samples = StoredBank(bank, teacher=source.card.fingerprint, spec=source.spec)
        difficulty = load_hardness(hardness, bank=samples.card.key())
        difficulty = difficulty[: config.trained_on(len(difficulty))]
        blocks = find_blocks(source.network, source.spec, config.alignment_modules)

        name = name_of(
            "hast.stages.quantize", config.model_dump_json(), source.card.fingerprint,
            samples.digest, blocks,
            fingerprint(student.state_dict()), fingerprint({"difficulty": difficulty}),
            engine, where.type, ranks.size, str(torch.__version__),
        )  # fmt: skip
        file = CheckpointFile(PARTIAL / f"quantize-{name}.safetensors", every=checkpoint)
        state = start_finetuning(student, difficulty, config)
        kept = Curve(config.steps, FinetuneStep)
        saved = file.load()
        if saved:
            state.restore(saved.tensors, saved.values)
            kept.restore(saved.values["curve"], state.step)
        steps = finetune(
            student, source.network, samples.images, difficulty, blocks, config, engine, ranks,
            state, held_back_part(source.network, samples.images, config),
        )  # fmt: skip
        first = ranks.rank == 0
        shown = track(
            steps, total=config.steps, done=state.step, label=f"quantize {bits}", fields=_SHOWN,
            show=first,
        )  # fmt: skip
        for step in shown:
            kept.add(step)
            if first and file.is_due() and state.step < config.steps:
                tensors, numbers = state.snapshot()
                file.save(tensors, numbers | {"curve": kept.saved()})
    if first:
        round_biases(student)
        save_with_card(out, student, load_card(reconstructed, StudentCard))
        write_tsv(curve, *kept.table())
        last = [record for _, record in kept.rows[-1:]]  # none where there are no steps
        losses = {name: float(getattr(r, name)) for r in last for name in _SHOWN}
        write_json(metrics, losses | {"kept_step": state.step, "steps": config.steps})
        file.remove()


if __name__ == "__main__":
    main(run, kept="the last checkpoint is kept in .partial/; the same command goes on from it")
