"""calibrate: attach quantizers to a copy of the teacher and set its activation ranges."""

from pathlib import Path

from rich.console import Console

from hast.bank.stored import StoredBank
from hast.config.bit_width import BitWidth
from hast.config.calibrate import CalibrationConfig
from hast.config.layers import PlanConfig
from hast.engine.engine import select_device
from hast.engine.progress import is_quiet
from hast.errors import InputError
from hast.files.generators import load_generator
from hast.files.students import StudentCard
from hast.files.tables import read_json, write_json, write_tsv
from hast.files.teachers import Teacher, load_teacher
from hast.files.weights import save_with_card
from hast.math.allocation import allocate_bits
from hast.networks.coverage import LayerBits, layer_table
from hast.networks.plan import fixed_layers, weight_of
from hast.networks.size import packed_size
from hast.pipeline.calibrate import calibrate_student
from hast.report.tables import layers_table
from hast.stages.entry import Bits, Device, In, Out, main, section


def run(
    *,
    bits: Bits,
    teacher: In,
    generator: In,
    bank: In,
    sensitivity: In,
    out: Out,
    layers: Out,
    metrics: Out,
    device: Device = "auto",
) -> None:
    """Write the calibrated, untrained student to OUT and its bits by layer to LAYERS."""
    rules = section("layers", PlanConfig)
    config = section("calibrate", CalibrationConfig)
    width = BitWidth.parse(bits)
    where = select_device(device)
    source = load_teacher(teacher, where)
    allocation = _allocate(sensitivity, source, width, rules)
    samples = made_by = None
    if config.images == "bank":
        samples = StoredBank(bank, teacher=source.card.fingerprint, spec=source.spec).images
    else:
        made_by = load_generator(generator, source)
    student, plan, covered = calibrate_student(
        source.network, source.spec, width, rules, config,
        images=samples, generator=made_by, allocation=allocation,
    )  # fmt: skip

    card = StudentCard(bits=str(width), plan=plan, teacher=source.card.fingerprint)
    save_with_card(out, student, card)
    table = layer_table(source.network, source.spec, plan)
    if not is_quiet():
        Console(stderr=True).print(layers_table(table, title=f"Layers of {width}"))
    write_tsv(layers, LayerBits._fields, table)
    shares = {"low_bit_weights": covered.weights, "low_bit_multiply_adds": covered.multiply_adds}
    write_json(metrics, {"size_bytes": packed_size(student), **shares})


def _allocate(
    sensitivity: Path, source: Teacher, width: BitWidth, rules: PlanConfig
) -> dict[str, int]:
    """Weight bits by measured sensitivity; empty where it was not measured."""
    measured, budget = read_json(sensitivity), rules.average_weight_bits
    if not measured and budget != "width":
        raise InputError("layers.average_weight_bits needs sensitivity.enabled: true")
    free = measured.keys() - (fixed_layers(list(measured), rules) if measured else set())
    if not free:
        return {}
    damage = {n: {int(b): d for b, d in measured[n].items()} for n in measured if n in free}
    parameters = {layer: weight_of(source.network, layer).numel() for layer in damage}
    average = width.weight_bits if budget == "width" else budget
    try:
        return allocate_bits(damage, parameters, average_bits=average)
    except ValueError as error:
        raise InputError(f"layers.average_weight_bits: {error}") from None


if __name__ == "__main__":
    main(run)
