"""Images of the final measurement."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from hast.config.section import Section


class DatasetConfig(Section):
    """Where labelled images come from."""

    name: Literal["digits", "folder", "none"] = "digits"
    """`digits` is scikit-learn's bundled set; `folder` reads root/<split>/<class>/<image>, classes
    in alphabetical order; `none` measures nothing: the student is only compared with the teacher,
    on the bank."""
    root: Path | None = None
    """Of `folder`; relative to the project."""
    crop_fraction: float = Field(default=1.0, gt=0, le=1)
    """Images are scaled to cover the input divided by this share, and the centre is cut out; 0.875
    is torchvision's for 224 x 224."""
