"""What an exported network takes."""

import torch
from torch import Tensor, nn

from hast.config.export import Inputs
from hast.config.spec import ModelSpec
from hast.errors import one_of

_LARGEST = {"pixels": 1.0, "bytes": 255.0}


class FromPixels(nn.Module):
    """A classifier that takes pixels, and normalizes them itself."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, spec: ModelSpec, *, largest: float) -> None:
        """
        Args:
            network: takes normalized pixels.
            spec: tells mean and standard deviation.
            largest: of the pixels: 1 of floats, 255 of bytes.
        """
        super().__init__()
        self.network, self.largest = network, largest
        for name, values in zip(("mean", "std"), spec.channels(), strict=True):
            self.register_buffer(name, values)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.float() / self.largest if self.largest != 1 else images
        logits: Tensor = self.network((pixels - self.mean) / self.std)
        return logits


def takes(network: nn.Module, spec: ModelSpec, inputs: Inputs) -> nn.Module:
    """`network` with the normalization in front that `inputs` asks for.

    Raises:
        InputError: there is no such kind of input.
    """
    one_of("inputs", inputs, Inputs)
    if inputs == "normalized":
        return network
    return FromPixels(network, spec, largest=_LARGEST[inputs]).eval()


def example_images(spec: ModelSpec, inputs: Inputs, batch: int = 2) -> Tensor:
    """Images to trace with. Two, for of one the exporter would take the size for a constant."""
    dtype = torch.uint8 if inputs == "bytes" else torch.float32
    return torch.zeros(batch, *spec.input_shape, dtype=dtype)
