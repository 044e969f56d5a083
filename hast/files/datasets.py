"""Labelled images for training the built-in teacher and for the final measurement.

Only the stage `teacher` may import this module to train, and `answers`, `evaluate` and `export` to
measure: everything that trains a student is data-free.

The libraries that read data take seconds to import, so that happens where images are opened: most
commands and the checks of a params file only need the section.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from hast.config.dataset import DatasetConfig
from hast.config.spec import ModelSpec
from hast.errors import InputError, first_line, needs
from hast.files.pictures import PictureFiles

if TYPE_CHECKING:
    from torchvision.datasets import ImageFolder

Split = Literal["train", "test"]
_BATCH_SIZE = 256
_DIGITS_MAX_PIXEL = 16


class Batches(Protocol):
    """Sized and iterable: normalized images (N, C, H, W) and labels (N,), in a fixed order."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


def load_digits_split(split: Split, spec: ModelSpec) -> tuple[Tensor, Tensor]:
    """Two thirds of the digits to train on, or the held-out third: normalized images (N, 1, 8, 8)
    and labels (N,). The split never changes."""
    with needs("'hast[pipeline]'"):
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

    digits = load_digits()
    train, test = train_test_split(
        range(len(digits.target)), test_size=1 / 3, stratify=digits.target, random_state=0
    )
    index = train if split == "train" else test
    pixels = torch.tensor(digits.images[index], dtype=torch.float32) / _DIGITS_MAX_PIXEL
    labels = torch.tensor(digits.target[index], dtype=torch.int64)
    return spec.normalize(pixels.unsqueeze(1)), labels


def open_batches(
    config: DatasetConfig, split: Split, spec: ModelSpec, *, at_most: int | None = None
) -> Batches:
    """Batches of a split.

    Args:
        config: where the images come from.
        split: which of them.
        spec: what the network expects.
        at_most: read no more images than so many, evenly spaced, for a folder is in the order of
            its classes; None reads all.

    Raises:
        InputError: the folder is not there, or its images or classes do not fit the network.
    """
    if config.name == "none":
        return []
    if config.name == "digits":
        return _digits_batches(split, spec, at_most)
    folder = class_folders(config, split)
    check_classes(folder, spec.num_classes)
    files, labels = zip(*(folder.samples[i] for i in _spaced(len(folder), at_most)), strict=True)
    images = PictureFiles(files, spec, config.crop_fraction, _BATCH_SIZE)
    return _LabelledFiles(images, torch.tensor(labels))


def _spaced(total: int, at_most: int | None) -> range:
    """Which of `total` images to read."""
    if at_most is None:
        return range(total)
    # The step counts a last batch that is not full as full: with another rounding the figures of
    # exported students would be of other images than those so far.
    counted = total if total <= _BATCH_SIZE else -(-total // _BATCH_SIZE) * _BATCH_SIZE
    return range(0, total, max(1, counted // at_most))[:at_most]


def _digits_batches(split: Split, spec: ModelSpec, at_most: int | None) -> Batches:
    if (spec.input_shape, spec.num_classes) != ((1, 8, 8), 10):
        raise InputError(
            "dataset 'digits' holds 1x8x8 images of 10 classes but the teacher expects"
            f" {'x'.join(map(str, spec.input_shape))} and {spec.num_classes} classes; set"
            " dataset.name and dataset.root"
        )
    images, labels = load_digits_split(split, spec)
    chosen = [*_spaced(len(labels), at_most)]
    images, labels = images[chosen], labels[chosen]
    return [*zip(images.split(_BATCH_SIZE), labels.split(_BATCH_SIZE), strict=True)]


def check_classes(folder: "ImageFolder", classes: int) -> None:
    """Check that a folder has as many classes as the network answers.

    Raises:
        InputError: with both numbers.
    """
    if len(folder.classes) != classes:
        raise InputError(
            f"{folder.root} holds {len(folder.classes)} classes but the teacher answers {classes}"
        )


def class_folders(config: DatasetConfig, split: Split) -> "ImageFolder":
    """A split of an image folder, before any image is read.

    Raises:
        InputError: the folder is not there, or a class has no images.
    """
    from torchvision.datasets import ImageFolder

    if config.root is None or not (config.root / split).is_dir():
        raise InputError(
            "dataset.root (`--data-root`) must be a folder that holds"
            f" '{split}/<class>/<image>', got {config.root}"
        )
    try:
        return ImageFolder(str(config.root / split))
    except FileNotFoundError as error:  # no class folder, or an empty one
        raise InputError(f"{config.root / split}: {first_line(error)}") from None


@dataclass(frozen=True)
class _LabelledFiles:
    """Batches of image files and their labels."""

    images: PictureFiles
    labels: Tensor  # (N,)

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.images, self.labels.split(_BATCH_SIZE), strict=True)
