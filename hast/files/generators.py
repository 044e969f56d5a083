"""The generator on disk."""

from pathlib import Path

from hast.config.section import Section
from hast.engine.engine import place
from hast.engine.runtime import device_of
from hast.files.teachers import Teacher
from hast.files.weights import WEIGHTS, load_card, load_state, read_state
from hast.networks.batch_norm import freeze
from hast.networks.generator import Generator


class GeneratorCard(Section):
    latent_dim: int
    width: int
    teacher: str  # fingerprint


def load_generator(folder: Path, teacher: Teacher) -> Generator:
    """Rebuild the generator where its teacher is, frozen, in eval mode.

    Raises:
        InputError: a file is missing or corrupt, or it was trained for another teacher.
    """
    card = load_card(folder, GeneratorCard)
    teacher.require_made_for(card.teacher, folder)
    generator = Generator(teacher.spec, card.latent_dim, card.width)
    load_state(generator, read_state(folder / WEIGHTS), name=str(folder / WEIGHTS))
    return place(freeze(generator), device_of(teacher.network))
