"""Bring a calibrated student's blocks nearer to the teacher's, one after the other."""

from torch import nn

from hast.config.reconstruct import ReconstructionConfig
from hast.engine.engine import Engine, Images
from hast.engine.progress import track
from hast.errors import InputError
from hast.files.partial import CheckpointFile
from hast.files.weights import load_state, plain_state
from hast.loops.reconstruct import reconstruct
from hast.networks.biases import round_biases
from hast.networks.classifier import takes_size
from hast.networks.provenance import spec_and_plan
from hast.networks.units import find_units
from hast.pipeline.work import engine_for


def reconstruct_student(
    student: nn.Module,
    teacher: nn.Module,
    images: Images,
    config: ReconstructionConfig,
    *,
    trained_on: int | None = None,
    engine: Engine | None = None,
    file: CheckpointFile | None = None,
    label: str = "reconstruct",
    show: bool = True,
) -> None:
    """Reconstruct a calibrated student in place.

    Args:
        student: see `calibrate_student`, with learned scales.
        teacher: frozen, eval mode, same device.
        images: (N, C, H, W), normalized pixels, the bank.
        config: see `ReconstructionConfig`; with 0 steps nothing is done.
        trained_on: how many of the images may be learned from, the first ones; by default all.
        engine: its precision; by default the one for this much work.
        file: where what was killed goes on, and is kept now and then; the caller removes it.
        label: of the progress.
        show: show progress.

    Raises:
        InputError: the student's scales are not learned, or the network takes images of its own
            size alone and `config.resize` makes them smaller.
    """
    if not config.steps:
        return
    spec, plan = spec_and_plan(student)
    if plan.quantizer != "learned":
        raise InputError(
            "reconstruct: learned rounding needs layers.quantizer 'learned', got"
            f" {plan.quantizer!r}; set it (recipe best does), or reconstruct.steps: 0"
        )
    if config.resize < 1 and not takes_size(teacher, spec, config.resize):
        raise InputError(
            f"reconstruct.resize: {type(teacher).__name__} takes images of"
            f" {'x'.join(map(str, spec.input_shape[1:]))} alone, got {config.resize:g}; set it to 1"
        )
    units = find_units(teacher, spec, plan.weights)
    engine = engine or engine_for(config, teacher, spec)
    images = images[: min(config.samples, len(images) if trained_on is None else trained_on)]
    saved = file.load() if file else None
    if file and saved:
        load_state(student, saved.tensors, name=str(file.path))
    first = saved.values["units"] if saved else 0
    records = reconstruct(student, teacher, spec, units, images, config, engine, first=first)
    shown = track(
        records, total=len(units) * config.steps, done=first * config.steps, label=label,
        fields=("loss",), show=show,
    )  # fmt: skip
    for step in shown:
        if step.is_last and file and file.is_due():
            file.save(plain_state(student), {"units": step.unit + 1})
    round_biases(student)
