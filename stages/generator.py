"""generator: train the class-conditional generator against the teacher."""

from hast.config.bank import BankConfig
from hast.config.calibrate import CalibrationConfig
from hast.config.generator import GeneratorConfig
from hast.config.synthesize import SynthesisConfig
from hast.engine.engine import select_device
from hast.engine.progress import track
from hast.files.generators import GeneratorCard
from hast.files.tables import Curve, write_json, write_tsv
from hast.files.teachers import load_teacher
from hast.files.weights import save_with_card
from hast.loops.train_generator import GeneratorStep, build_generator, train_generator
from hast.networks.classifier import require_batch_norm
from hast.pipeline.work import engine_for
from hast.stages.entry import Compile, Device, In, Out, Precision, main, section

_SHOWN = ("loss", "cross_entropy", "bns")


def run(
    *,
    teacher: In,
    out: Out,
    metrics: Out,
    curve: Out,
    device: Device = "auto",
    precision: Precision = "auto",
    compile: Compile = "auto",
) -> None:
    """Write the generator to OUT; a note instead where nothing will use it."""
    if not _is_used():
        reason = "neither synthesize.init nor calibrate.images is `generator`"
        write_json(out / "not-trained.json", {"reason": reason})
        write_tsv(curve, ("step", *_SHOWN), [])
        write_json(metrics, {})
        return
    config = section("generator", GeneratorConfig)
    where = select_device(device)
    source = load_teacher(teacher, where)
    require_batch_norm(source.network, source.spec.input_shape)
    engine = engine_for(config, source.network, source.spec, precision=precision, compile=compile)
    generator = build_generator(source.spec, config).to(where)

    kept = Curve(config.steps, GeneratorStep)
    steps = train_generator(generator, source.network, config, engine)
    for step in track(steps, total=config.steps, label="generator", fields=_SHOWN):
        kept.add(step)

    card = GeneratorCard(
        latent_dim=config.latent_dim, width=config.width, teacher=source.card.fingerprint
    )
    save_with_card(out, generator, card)
    write_tsv(curve, *kept.table())
    write_json(metrics, {name: float(getattr(step, name)) for name in _SHOWN})


def _is_used() -> bool:
    """Whether its images start a synthesis, or set activation ranges."""
    calibrates = section("calibrate", CalibrationConfig).images == "generator"
    starts = section("synthesize", SynthesisConfig).init == "generator"
    return calibrates or (starts and section("bank", BankConfig).source is None)


if __name__ == "__main__":
    main(run)
