"""Which layers are quantized, and how."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hast.config.section import Section
from hast.config.targets import Target
from hast.math.quantization import MAX_BITS, MIN_BITS

Placement = Literal["inputs", "relu"]
QuantizerKind = Literal["minmax", "learned"]
Bits = Annotated[int, Field(ge=MIN_BITS, le=MAX_BITS)]
AsRun = Literal["width"]  # like the bit width of the run


class Override(Section):
    """Other bits for the layers that a shell pattern matches."""

    match: str
    """Shell pattern of module names."""
    weight_bits: Bits | None = None
    """Of the weight; null leaves them."""
    act_bits: Bits | None = None
    """Of the activations; null leaves them."""

    @model_validator(mode="after")
    def _changes_something(self) -> "Override":
        if self.weight_bits is None and self.act_bits is None:
            raise ValueError("an override must set weight_bits or act_bits")
        return self


class PlanConfig(Section):
    """How bits are distributed over the layers."""

    placement: Placement = "relu"
    """`inputs` quantizes the input of every Conv and Linear, `relu` the output of every ReLU and
    ReLU6 module (the paper)."""
    quantizer: QuantizerKind = "minmax"
    """`minmax` takes the weights' range anew at every step and the activations' from calibration
    (the paper); `learned` trains the scales, from where rounding costs the least."""
    average_weight_bits: Annotated[float, Field(ge=MIN_BITS, le=MAX_BITS)] | AsRun = "width"
    """Budget of an allocation by measured sensitivity; `width` takes the run's weight bits. Layers
    with bits of their own (below) are outside the budget."""
    image_bits: Bits | AsRun = 8
    """Bits of the first layer's input, with placement `inputs`: a picture has 256 levels, and at 16
    it is another one; `width` takes the run's."""
    first_last_bits: Bits | AsRun = "width"
    """Bits of the first and the last layer, of their weights and, with placement `inputs`, of the
    last one's input; `width` treats them like the others."""
    overrides: tuple[Override, ...] = ()
    """Patterns with their own bits, the last match wins."""
    target: Target = "generic"
    """What will run the network: the student has the numbers that its integer kernels take."""
    skip: tuple[str, ...] = ()
    """Patterns of modules to leave in full precision; one that names a parameter which is
    multiplied outside of a Conv or Linear says that this is meant."""
