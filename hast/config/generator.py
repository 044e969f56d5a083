"""Training of the generator."""

from pydantic import Field

from hast.config.section import Section


class GeneratorConfig(Section):
    """GDFQ's warm-up as HAST uses it."""

    latent_dim: int = Field(default=100, ge=1)
    """Numbers of noise for an image."""
    width: int = Field(default=128, ge=2, multiple_of=2)
    """Channels of the first feature map."""
    steps: int = Field(default=800, ge=1)
    """Steps of the optimizer."""
    batch_size: int = Field(default=16, ge=2)
    """Images in a step."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Of the optimizer, at the start."""
    bns_weight: float = Field(default=0.1, ge=0)
    """Of L_BNS beside the cross-entropy."""
    seed: int = 0
    """Of all random numbers of the stage."""

    @property
    def forward_passes(self) -> int:
        """Of the teacher; a backward pass costs two."""
        return 3 * self.steps * self.batch_size
