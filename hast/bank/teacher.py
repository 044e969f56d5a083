"""A bank beside the teacher that it was made for."""

from pathlib import Path

from hast.bank.stored import StoredBank
from hast.engine.engine import select_device
from hast.files.teachers import Teacher, load_teacher


def teacher_and_bank(teacher: Path, bank: Path, device: str) -> tuple[Teacher, StoredBank]:
    """The teacher on its device, and the bank, which must be made for it.

    Raises:
        InputError: one of them is missing or damaged, or they do not belong together.
    """
    source = load_teacher(teacher, select_device(device))
    return source, StoredBank(bank, teacher=source.card.fingerprint, spec=source.spec)
