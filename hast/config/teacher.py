"""Which network, and the training of a built-in one."""

from typing import Any

from pydantic import Field

from hast.config.section import Section
from hast.config.spec import PartialSpec


class TrainingConfig(Section):
    """Ordinary supervised training: SGD with momentum and a one-cycle learning rate."""

    epochs: int = Field(default=40, ge=1)
    """Passes over the training images."""
    batch_size: int = Field(default=64, ge=2)
    """Images in a step."""
    learning_rate: float = Field(default=0.1, gt=0)
    """The peak of the cycle."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Of the optimizer."""
    min_crop_scale: float = Field(default=0.6, gt=0, le=1)
    """Smallest share of the area that a random crop keeps."""
    seed: int = 0
    """Of all random numbers of the stage."""


class TeacherConfig(Section):
    """Which network."""

    source: str
    """See `hast.networks.sources`."""
    source_args: dict[str, Any] = {}
    """Keyword arguments of the factory."""
    weights: str | None = None
    """A checkpoint file (.safetensors, .pth, .pt, .bin, .ckpt) or a pretrained tag of the source's
    library; null trains a built-in network, and takes a python factory's network as it comes."""
    weights_entry: str = "auto"
    """Which weights of a checkpoint file that holds several, such as `state_dict`; `auto` takes
    averaged ones (EMA) where they are, and says so."""
    spec: PartialSpec = PartialSpec()
    """What the source does not know of its network."""
    training: TrainingConfig = TrainingConfig()
    """Of a built-in network."""
