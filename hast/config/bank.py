"""Where the bank comes from, and how it is stored."""

from typing import Literal

from pydantic import Field

from hast.config.section import Section

Dtype = Literal["uint8", "float16", "float32"]


class BankConfig(Section):
    """Where the pipeline's bank comes from, and how one of our own is stored."""

    source: str | None = Field(default=None, min_length=1)
    """Folder or URL of a bank to take, or folder of unlabelled pictures to make one of; then none
    is synthesized."""
    dtype: Dtype = "uint8"
    """Of stored pixels, where the bank is made here."""
    crop_fraction: float = Field(default=1.0, gt=0, le=1)
    """Only of pictures: they are scaled to cover the input divided by this share, and the centre is
    cut out; 0.875 is torchvision's for 224 x 224."""
