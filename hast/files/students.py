"""The student on disk: weights and activation ranges, and a card with its bit widths."""

from pathlib import Path

from torch import nn

from hast.config.section import Section
from hast.engine.engine import place
from hast.engine.runtime import device_of
from hast.files.teachers import Teacher
from hast.files.weights import WEIGHTS, load_card, load_state, read_state
from hast.networks.plan import QuantizationPlan
from hast.networks.student import prepare_student, set_mode


class StudentCard(Section):
    """What rebuilds the student beside its weights."""

    bits: str  # the run's bit width, such as w4a4
    plan: QuantizationPlan
    teacher: str  # fingerprint


def load_student(folder: Path, teacher: Teacher) -> nn.Module:
    """Rebuild a calibrated or fine-tuned student where its teacher is, in eval mode, quantizing.

    Raises:
        InputError: a file is missing or corrupt, or it was made from another teacher.
    """
    card = load_card(folder, StudentCard)
    teacher.require_made_for(card.teacher, folder)
    plan = card.plan.model_copy(update={"outputs": card.plan.outputs or {}})
    student = prepare_student(teacher.network, teacher.spec, plan)
    load_state(student, read_state(folder / WEIGHTS), name=str(folder / WEIGHTS))
    set_mode(student, "quantize")
    return place(student, device_of(teacher.network))
