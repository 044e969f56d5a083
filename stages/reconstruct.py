"""reconstruct: bring the calibrated student's blocks nearer to the teacher's, one by one."""

import shutil

import torch

from hast.bank.teacher import teacher_and_bank
from hast.config.finetune import FinetuneConfig
from hast.config.reconstruct import ReconstructionConfig
from hast.engine.runtime import device_of
from hast.files.partial import PARTIAL, CheckpointFile, name_of
from hast.files.students import StudentCard, load_student
from hast.files.weights import load_card, save_with_card
from hast.networks.fingerprint import fingerprint
from hast.pipeline.reconstruct import reconstruct_student
from hast.pipeline.work import engine_for
from hast.stages.entry import Bits, Device, In, Out, Precision, Seconds, main, section


def run(
    *,
    bits: Bits,
    teacher: In,
    calibrated: In,
    bank: In,
    out: Out,
    device: Device = "auto",
    precision: Precision = "auto",
    checkpoint: Seconds = 60.0,
) -> None:
    """Write the reconstructed student to OUT; with 0 steps that is the calibrated one. A run that
    was killed goes on with the block at which it was."""
    config = section("reconstruct", ReconstructionConfig)
    if not config.steps:
        shutil.copytree(calibrated, out, dirs_exist_ok=True)
        return
    source, samples = teacher_and_bank(teacher, bank, device)
    student = load_student(calibrated, source)
    trained_on = section("quantize", FinetuneConfig).trained_on(len(samples))
    engine = engine_for(config, source.network, source.spec, precision=precision)
    name = name_of(
        "hast.stages.reconstruct", config.model_dump_json(), source.card.fingerprint,
        samples.digest, trained_on, fingerprint(student.state_dict()), engine,
        device_of(student).type, str(torch.__version__),
    )  # fmt: skip
    file = CheckpointFile(PARTIAL / f"reconstruct-{name}.safetensors", every=checkpoint)
    reconstruct_student(
        student, source.network, samples.images, config,
        trained_on=trained_on, engine=engine, file=file, label=f"reconstruct {bits}",
    )  # fmt: skip
    save_with_card(out, student, load_card(calibrated, StudentCard))
    file.remove()


if __name__ == "__main__":
    main(run, kept="the blocks that are done are kept in .partial/; the same command goes on")
