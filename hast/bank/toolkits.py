"""A bank as other toolkits take it: batches to calibrate with, one file of arrays, or pictures.

Toolkits for quantization set the ranges of activations by images that a user brings, and take
random numbers where there are none. A bank is made for that: it needs no data, and its statistics
are those that the network's BatchNorm layers expect.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hast.bank.record import Bank
from hast.bank.stored import StoredBank
from hast.config.export import Inputs
from hast.config.spec import ModelSpec
from hast.engine.engine import Images
from hast.errors import InputError, one_of
from hast.files.placing import disk_errors, side_folder

Form = Literal["npz", "npy", "images", "folder"]
_TOGETHER = 64  # images that are decoded together


class CalibrationReader:
    """Batches of a bank, in order.

    Iterate over arrays (N, C, H, W), as NNCF's `Dataset`, torch and most toolkits do, as often as
    needed; or give it to ONNX Runtime's `quantize_static`, which asks with `get_next` for the
    inputs of a model by name until there are none.
    """

    def __init__(
        self,
        bank: Bank | StoredBank,
        input_name: str = "images",
        *,
        inputs: Inputs = "normalized",
        batch_size: int = 1,
        samples: int | None = None,
    ) -> None:
        """
        Args:
            bank: whose images are read; nothing else of it is.
            input_name: of the ONNX model; `images` in those that `hast.export_onnx` writes.
            inputs: what the model takes: `normalized` images, `pixels` in [0, 1], or `bytes`.
            batch_size: images in a batch; the last one may have fewer.
            samples: read the first so many; all by default.

        Raises:
            InputError: there are no such inputs, or no image is asked for.
        """
        one_of("inputs", inputs, Inputs)
        for name, value in (("batch_size", batch_size), ("samples", samples)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        self.input_name, self.inputs, self.batch_size = input_name, inputs, batch_size
        self._spec = bank.card.spec
        self._images: Images = bank.images if samples is None else bank.images[:samples]
        self.rewind()

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self._images) // self.batch_size)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for images in self._images.split(self.batch_size):
            yield as_inputs(images, self._spec, self.inputs).numpy()

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next batch by the name of its input; None when there are no more."""
        batch = next(self._rest, None)
        return None if batch is None else {self.input_name: batch}

    def rewind(self) -> None:
        """Let `get_next` begin again."""
        self._rest = iter(self)


def as_inputs(images: Tensor, spec: ModelSpec, inputs: Inputs) -> Tensor:
    """Normalized images (N, C, H, W) as a model takes them.

    Synthetic pixels may be darker than black and brighter than white; as `pixels` and `bytes` they
    are clipped.
    """
    if inputs == "normalized":
        return images
    pixels = spec.denormalize(images)
    return pixels if inputs == "pixels" else (255 * pixels).round().to(torch.uint8)


def export_bank(bank: StoredBank, out: Path, form: Form, *, inputs: Inputs | None = None) -> None:
    """Write the images of a bank for a toolkit that reads files.

    Args:
        bank: whose samples are written.
        out: file or folder, which must not be there.
        form: `npz` has `images` (N, C, H, W) and `labels` (N,), `npy` the images alone; `images` is
            a folder of PNG pictures, `folder` one with a folder for each class that occurs, named
            by its number.
        inputs: of arrays, see `as_inputs`; by default normalized. Pictures have bytes.

    Raises:
        InputError: `out` is there, pictures are asked for with other inputs than bytes or of
            channels that are no picture's, or there is no room.
    """
    one_of("the form (`--as`)", form, Form)
    if out.exists() or out.is_symlink():
        raise InputError(f"{out}: is there already and is not overwritten; name another place")
    if form in ("images", "folder"):
        _check_pictures(bank.card.spec, inputs)
    with side_folder(out) as side, disk_errors(out):
        new = side / f"new.{form}"
        if form in ("images", "folder"):
            _write_pictures(bank, new, by_class=form == "folder")
        else:
            images = _write_array(bank, side / "new.npy", inputs or "normalized")
            if form == "npz":
                np.savez(new, images=images, labels=bank.labels.numpy())
        os.rename(new, out)


def _write_array(bank: StoredBank, path: Path, inputs: Inputs) -> NDArray[Any]:
    """Write batch after batch, and map what is there."""
    reader = CalibrationReader(bank, inputs=inputs, batch_size=_TOGETHER)
    with path.open("wb") as file:
        for number, batch in enumerate(reader):
            if number == 0:
                header = np.lib.format.header_data_from_array_1_0(batch)
                header["shape"] = (len(bank), *batch.shape[1:])
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(batch).tobytes())
    mapped: NDArray[Any] = np.load(path, mmap_mode="r")
    return mapped


def _check_pictures(spec: ModelSpec, inputs: Inputs | None) -> None:
    if inputs not in (None, "bytes"):
        raise InputError(f"pictures hold bytes, got inputs {inputs!r}; leave it out, or take npz")
    if spec.input_shape[0] not in (1, 3):
        raise InputError(
            f"a picture has 1 or 3 channels, the bank's images {spec.input_shape[0]}; take npz"
        )


def _write_pictures(bank: StoredBank, folder: Path, *, by_class: bool) -> None:
    from PIL import Image

    spec, number = bank.card.spec, 0
    samples, classes = len(str(len(bank) - 1)), len(str(spec.num_classes - 1))
    folder.mkdir()
    for images, labels in bank.batches(_TOGETHER):
        codes = as_inputs(images, spec, "bytes").permute(0, 2, 3, 1).squeeze(3).numpy()
        for picture, label in zip(codes, labels.tolist(), strict=True):
            place = folder / (f"{label:0{classes}}" if by_class else "")
            place.mkdir(exist_ok=True)
            Image.fromarray(picture).save(place / f"{number:0{samples}}.png")
            number += 1
