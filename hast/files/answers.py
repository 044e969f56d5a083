"""What the teacher says about the test images and the bank: one safetensors file.

It is asked once, and not once for every width whose student is compared with it.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from hast.errors import InputError
from hast.files.placing import read_errors, write_atomically
from hast.loops.evaluate import Prediction, Predictions

TEACHER = "teacher"


def save_answers(path: Path, answers: dict[str, Predictions]) -> None:
    """Write the teacher's predictions, by the name of the images."""
    tensors = {
        f"{images}.{name}": tensor.contiguous()
        for images, seen in answers.items()
        for name, tensor in {"labels": seen.labels, **seen.by_network[TEACHER]._asdict()}.items()
    }
    write_atomically(path, save(tensors))


def load_answers(path: Path, images: str, labels: Tensor) -> dict[str, Prediction]:
    """Read what it says about the images of this name, which have these labels.

    Raises:
        InputError: the file is missing or malformed, or of other images.
    """
    with read_errors(path, SafetensorError, KeyError, way_out="rerun `dvc repro answers`"):
        tensors = load_file(path)
        said = Prediction(*(tensors[f"{images}.{name}"] for name in Prediction._fields))
        same = torch.equal(tensors[f"{images}.labels"], labels)
    if not same:
        raise InputError(f"{path}: is of other {images} images; rerun `dvc repro answers`")
    return {TEACHER: said}
