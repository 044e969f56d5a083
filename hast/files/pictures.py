"""Picture files, read as a network takes them.

They are scaled to cover the input, of which the centre is cut out: labelled test images and a
user's own pictures in the same way.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hast.config.spec import ModelSpec
from hast.errors import InputError
from hast.files.placing import read_errors

# Those of torchvision's folders; importing it for them would take a second.
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_MAX_READERS = 16  # threads; more wait for the interpreter


def pictures_in(folder: Path) -> list[Path]:
    """The pictures below a folder, however deep, in the order of their names relative to it."""
    found = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def digest_of(files: Sequence[Path]) -> str:
    """sha256 over the contents of files, in their order; their names do not count.

    Raises:
        InputError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        with read_errors(path), path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@dataclass(frozen=True)
class PictureFiles:
    """Batches (B, C, H, W) of normalized pixels; threads read the next one while the last is used.

    Threads suffice, for Pillow lets go of the interpreter while it decodes and scales. Processes
    would have to import torch first, which takes longer than to read thousands of images, or to be
    forked from one in which torch's own threads run, which may hang.

    Raises:
        InputError: the network's images have another number of channels than pictures.
    """

    files: Sequence[str | Path]
    spec: ModelSpec
    crop_fraction: float  # of what covers the input
    batch_size: int

    def __post_init__(self) -> None:
        channels = self.spec.input_shape[0]
        if channels not in (1, 3):
            raise InputError(f"images have 1 or 3 channels but the teacher expects {channels}")

    def __len__(self) -> int:
        return -(-len(self.files) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        size = self.batch_size
        parts = [self.files[start : start + size] for start in range(0, len(self.files), size)]
        pool = ThreadPoolExecutor(min(torch.get_num_threads(), _MAX_READERS))
        try:
            coming = pool.map(self._read, parts[0])
            for following in [*parts[1:], ()]:
                pixels = torch.from_numpy(np.stack([*coming])).permute(0, 3, 1, 2)
                coming = pool.map(self._read, following)
                # A copy, for contiguous() leaves one channel with strides of channels last. And
                # torchvision's way: times 1 / 255 is not to the bit what divided by 255 is.
                images = torch.empty(pixels.shape).copy_(pixels).mul_(1 / 255)
                yield self.spec.normalize(images)
        finally:  # also at an unreadable image, at Ctrl-C, and where nobody wants the rest
            pool.shutdown(cancel_futures=True)

    def _read(self, file: str | Path) -> NDArray[np.uint8]:
        """The middle of one picture (H, W, C)."""
        channels, height, width = self.spec.input_shape
        image = _read_picture(file)
        image = image.convert("L") if channels == 1 else image
        image = _cover(image, height=height, width=width, fraction=self.crop_fraction)
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        middle = image.crop((left, top, left + width, top + height))
        return np.asarray(middle).reshape(height, width, channels)


def _read_picture(path: str | Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable image ({error})") from error


def _cover(image: Image.Image, *, height: int, width: int, fraction: float) -> Image.Image:
    """Scale an image so that its centre crop of height x width lies inside it."""
    scale = max(height / image.height, width / image.width) / fraction
    size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    return image if size == image.size else image.resize(size, Image.Resampling.BILINEAR)
