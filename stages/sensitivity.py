"""sensitivity: measure on the bank how much each layer suffers from each weight width."""

from hast.bank.teacher import teacher_and_bank
from hast.config.sensitivity import SensitivityConfig
from hast.engine.progress import track
from hast.files.tables import write_json
from hast.loops.sensitivity import measure_sensitivity
from hast.networks.plan import WEIGHTED, probe_layers
from hast.stages.entry import Device, In, Out, main, section


def run(*, teacher: In, bank: In, out: Out, device: Device = "auto") -> None:
    """Write the damage by layer and bits to OUT; nothing where it is switched off."""
    config = section("sensitivity", SensitivityConfig)
    damage: dict[str, dict[int, float]] = {}
    if config.enabled:
        source, samples = teacher_and_bank(teacher, bank, device)
        layers = list(probe_layers(source.network, source.spec, WEIGHTED))
        measured = measure_sensitivity(
            source.network, samples.images[: config.samples], layers, config.candidates
        )
        total = len(layers) * len(config.candidates)
        for record in track(measured, total=total, label="sensitivity", fields=("damage",)):
            damage.setdefault(record.layer, {})[record.bits] = record.damage
    write_json(out, damage)


if __name__ == "__main__":
    main(run)
