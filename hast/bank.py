"""A bank of synthetic samples in memory, and the card that says where it comes from."""

import hashlib
from typing import Any, Literal, NamedTuple

from torch import Tensor

from hast.config import Section
from hast.networks.spec import ModelSpec

FORMAT: Literal["hast-bank"] = "hast-bank"
VERSION = 1


class BankCard(Section):
    """Where a bank comes from. No time, host or path: the same inputs give the same card."""

    format: Literal["hast-bank"] = FORMAT
    version: int = VERSION
    samples: int
    spec: ModelSpec
    teacher: str  # fingerprint
    synthesis: dict[str, Any]  # parameters, seed included
    generator: str | None = None  # fingerprint, where the pixels started from its images
    libraries: dict[str, str] = {}  # versions

    def key(self) -> str:
        """Names the bank that these inputs make."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


class Bank(NamedTuple):
    """Samples and where they come from."""

    images: Tensor  # (N, C, H, W) float32, normalized pixels
    labels: Tensor  # (N,) int64
    card: BankCard
