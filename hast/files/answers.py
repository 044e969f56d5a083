"""What the teacher says about the test images and the bank: one safetensors file.

It is asked once, and not once for every width whose student is compared with it.
"""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from hast.errors import InputError
from hast.files.placing import write_atomically
from hast.loops.evaluate import Prediction, Predictions

TEACHER = "teacher"
TOGETHER = 256  # images of the bank


def save_answers(path: Path, answers: dict[str, Predictions]) -> None:
    """Write the teacher's predictions, by the name of the images."""
    tensors = {
        f"{images}.{name}": tensor.contiguous()
        for images, seen in answers.items()
        for name, tensor in {"labels": seen.labels, **seen.by_network[TEACHER]._asdict()}.items()
    }
    write_atomically(path, save(tensors))


def load_answers(path: Path, images: str) -> Predictions:
    """Read the predictions for the images of this name.

    Raises:
        InputError: the file is missing or malformed.
    """
    try:
        tensors = load_file(path)
        fields = (tensors[f"{images}.{name}"] for name in Prediction._fields)
        return Predictions(tensors[f"{images}.labels"], {TEACHER: Prediction(*fields)})
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"{path}: cannot be read ({error}); rerun `dvc repro answers`") from None
