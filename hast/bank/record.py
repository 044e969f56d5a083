"""A bank of samples in memory, and the card that says where it comes from."""

import hashlib
from typing import Any, Literal, NamedTuple

from pydantic import SerializerFunctionWrapHandler, model_serializer
from torch import Tensor

from hast.config.bank import Dtype
from hast.config.section import Section
from hast.config.spec import ModelSpec
from hast.errors import InputError

FORMAT: Literal["hast-bank"] = "hast-bank"
VERSION = 2


class Parent(Section):
    """A bank that another one was made from."""

    digest: str  # sha256 of its manifest
    samples: int
    synthesis: dict[str, Any]
    generator: str | None = None
    libraries: dict[str, str] = {}
    pictures: tuple[dict[str, Any], ...] = ()  # the imports that its samples come from, if any

    @model_serializer(mode="wrap")
    def _plain(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """No word of pictures where there are none: then older programs read the bank."""
        values: dict[str, Any] = plain(self)
        return values if self.pictures else {k: v for k, v in values.items() if k != "pictures"}


class Derivation(Section):
    """How a bank was made from others, or from pictures."""

    operation: Literal["filter", "merge", "import"]
    parameters: dict[str, Any] = {}
    parents: tuple[Parent, ...] = ()


class BankCard(Section):
    """Where a bank comes from. No time, host or path: the same inputs give the same card."""

    format: Literal["hast-bank"] = FORMAT
    version: int = VERSION
    samples: int
    dtype: Dtype = "uint8"  # of the images as they are stored
    spec: ModelSpec
    teacher: str  # fingerprint
    synthesis: dict[str, Any]  # parameters, seed included; empty of pictures, or if parents differ
    generator: str | None = None  # fingerprint, where the pixels started from its images
    libraries: dict[str, str] = {}  # versions
    derived: Derivation | None = None  # from other banks, or pictures

    def pictures(self) -> tuple[dict[str, Any], ...]:
        """Parameters of each import that samples come from, as far back as it lies."""
        if self.derived is None:
            return ()
        if self.derived.operation == "import":
            return (self.derived.parameters,)
        found: list[dict[str, Any]] = []
        for parent in self.derived.parents:
            found += [pictures for pictures in parent.pictures if pictures not in found]
        return tuple(found)

    def key(self) -> str:
        """Names the bank that these inputs make."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    def require_made_for(self, spec: ModelSpec, *, name: str) -> None:
        """Check that the pixels are what a teacher expects and the labels what it answers. The
        names of classes may differ.

        Raises:
            InputError: with both values; `name` says which bank.
        """
        for what in ("input_shape", "num_classes", "mean", "std"):
            ours, expected = getattr(self.spec, what), getattr(spec, what)
            if ours != expected:
                raise InputError(
                    f"{name} was made for {what} {ours} but the teacher has {expected}; take a bank"
                    " of this teacher, or mend the spec"
                )


class Bank(NamedTuple):
    """Samples and where they come from."""

    images: Tensor  # (N, C, H, W) float32, normalized pixels
    labels: Tensor  # (N,) int64
    card: BankCard
    difficulty: Tensor | None = None  # (N,) float32, 1 - p(y) under the teacher
    bns_gap: Tensor | None = None  # (L,) float32, of every BatchNorm call, where it was measured
