"""Make a bank of hard samples in memory."""

import torch
from torch import nn

from hast.bank.pixels import as_stored
from hast.bank.record import Bank, BankCard
from hast.config.bank import Dtype
from hast.config.spec import ModelSpec
from hast.config.synthesize import SynthesisConfig
from hast.engine.engine import Engine
from hast.engine.machine import __version__
from hast.engine.progress import track
from hast.loops.profile import profile_batches, whole_profile
from hast.loops.synthesize import batch_sizes, synthesize
from hast.networks.fingerprint import fingerprint
from hast.networks.generator import Generator
from hast.pipeline.work import engine_for


def make_bank(
    teacher: nn.Module,
    spec: ModelSpec,
    config: SynthesisConfig,
    *,
    dtype: Dtype = "uint8",
    generator: Generator | None = None,
    engine: Engine | None = None,
    show: bool = True,
) -> Bank:
    """Synthesize hard samples; on the CPU, rounded to the type that a stored bank would have.

    Args:
        teacher: frozen, eval mode.
        spec: what it expects and answers.
        config: see `SynthesisConfig`.
        dtype: of the pixels when they are stored.
        generator: on the teacher's device, where `config.init` is `generator`, else None.
        engine: by default the one for this much work.
        show: show progress.
    """
    engine = engine or engine_for(config, teacher, spec)
    batches = range(len(batch_sizes(config)))
    records = synthesize(teacher, generator, spec, config, batches, engine)
    total = len(batches) * config.steps
    shown = track(records, total=total, label="synthesize", fields=("loss",), show=show)
    results = [step for step in shown if step.is_last]
    pixels = torch.cat([step.images for step in results]).cpu().contiguous()
    images = as_stored(pixels, dtype)
    labels = torch.cat([step.labels for step in results]).cpu()
    size = config.batch_size
    pairs = zip(images.split(size), labels.split(size), strict=True)
    whole = whole_profile(profile_batches(teacher, pairs))
    card = bank_card(fingerprint(teacher.state_dict()), spec, config, dtype, generator)
    return Bank(images, labels, card, whole.difficulty, whole.bns_gap)


def bank_card(
    teacher: str,
    spec: ModelSpec,
    config: SynthesisConfig,
    dtype: Dtype,
    generator: Generator | None,
    **libraries: str,
) -> BankCard:
    """Where a bank comes from.

    Args:
        teacher: fingerprint.
        spec: of the teacher.
        config: how it is synthesized.
        dtype: of the stored pixels.
        generator: the one whose images the pixels start from, if they do.
        libraries: versions of what else had a hand in it.
    """
    return BankCard(
        samples=config.samples,
        dtype=dtype,
        spec=spec,
        teacher=teacher,
        synthesis=config.model_dump(),
        generator=None if generator is None else fingerprint(generator.state_dict()),
        libraries={"hast": __version__, "torch": str(torch.__version__), **libraries},
    )
