"""Where the bank comes from, and how it is stored."""

from typing import Literal

from pydantic import Field

from hast.config.section import Section

Dtype = Literal["uint8", "float16", "float32"]


class BankConfig(Section):
    """Where the pipeline's bank comes from, and how one of our own is stored."""

    source: str | None = Field(default=None, min_length=1)
    """Folder or URL of a bank to take; then none is synthesized."""
    dtype: Dtype = "uint8"
    """Of stored pixels."""
