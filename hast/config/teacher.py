"""Which network."""

from typing import Any

from hast.config.section import Section
from hast.config.spec import PartialSpec
from hast.config.training import TrainingConfig


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
