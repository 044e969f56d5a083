"""answers: what the teacher says about the test images and the bank, for all widths at once."""

from hast.bank.teacher import teacher_and_bank
from hast.config.dataset import DatasetConfig
from hast.files.answers import TEACHER, save_answers
from hast.files.datasets import open_batches
from hast.loops.evaluate import TOGETHER, predict_all
from hast.stages.entry import Device, In, Out, main, section


def run(*, inputs: In, teacher: In, bank: In, out: Out, device: Device = "auto") -> None:
    """Write them to OUT; INPUTS only says when to do it again."""
    config = section("dataset", DatasetConfig)
    source, samples = teacher_and_bank(teacher, bank, device)

    networks = {TEACHER: source.network}
    images = open_batches(config, "test", source.spec)
    parts = -(-len(samples) // TOGETHER)
    test = predict_all(networks, images, total=len(images), label="answers to test images")
    on_bank = predict_all(
        networks, samples.batches(TOGETHER), total=parts, label="answers to the bank"
    )
    save_answers(out, {"test": test, "bank": on_bank})


if __name__ == "__main__":
    main(run)
