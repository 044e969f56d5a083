"""generator: train the class-conditional generator against the teacher."""

from hast.config import load_section
from hast.loops.train_generator import GeneratorConfig, build_generator, train_generator
from hast.progress import track
from hast.runtime import select_device
from hast.storage.generators import GeneratorCard
from hast.storage.tables import Curve, write_json, write_tsv
from hast.storage.teachers import load_teacher
from hast.storage.weights import save_with_card
from stages.entry import PARAMS, In, Out, Params, main

_SHOWN = ("loss", "cross_entropy", "bns")


def run(*, teacher: In, out: Out, metrics: Out, curve: Out, params: Params = PARAMS) -> None:
    """Write the generator to OUT."""
    config = load_section(params, "generator", GeneratorConfig)
    device = select_device()
    source = load_teacher(teacher, device)
    generator = build_generator(source.spec, config).to(device)

    kept = Curve(config.steps)
    steps = train_generator(generator, source.network, config)
    for step in track(steps, total=config.steps, label="generator", fields=_SHOWN):
        kept.add(step)

    card = GeneratorCard(
        latent_dim=config.latent_dim, width=config.width, teacher=source.card.fingerprint
    )
    save_with_card(out, generator, card)
    write_tsv(curve, *kept.table())
    write_json(metrics, {name: float(getattr(step, name)) for name in _SHOWN})


if __name__ == "__main__":
    main(run)
