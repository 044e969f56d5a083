"""calibrate: attach quantizers to a copy of the teacher and set its activation ranges."""

from hast.bit_width import BitWidth
from hast.config import load_section
from hast.loops.calibrate import CalibrationConfig, calibrate, calibration_batches
from hast.networks.size import packed_size
from hast.networks.student import prepare_student
from hast.progress import track
from hast.runtime import select_device
from hast.storage.generators import load_generator
from hast.storage.students import StudentCard
from hast.storage.tables import write_json
from hast.storage.teachers import load_teacher
from hast.storage.weights import save_with_card
from stages.entry import PARAMS, Bits, In, Out, Params, main


def run(
    *,
    bits: Bits,
    teacher: In,
    generator: In,
    out: Out,
    metrics: Out,
    params: Params = PARAMS,
) -> None:
    """Write the calibrated, untrained student to OUT."""
    config = load_section(params, "calibrate", CalibrationConfig)
    width = BitWidth.parse(bits)
    device = select_device()
    source = load_teacher(teacher, device)
    images = calibration_batches(load_generator(generator, source, device), config)

    student = prepare_student(
        source.network,
        source.spec,
        width,
        placement=config.placement,
        range_momentum=config.range_momentum,
    )
    for _ in track(calibrate(student, images), total=config.batches, label=f"calibrate {width}"):
        pass

    card = StudentCard(
        weight_bits=width.weight_bits,
        act_bits=width.act_bits,
        placement=config.placement,
        teacher=source.card.fingerprint,
    )
    save_with_card(out, student, card)
    write_json(metrics, {"size_bytes": packed_size(student)})


if __name__ == "__main__":
    main(run)
