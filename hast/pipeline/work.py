"""How much a loop computes decides how it runs."""

from typing import Protocol

from torch import nn

from hast.config.spec import ModelSpec
from hast.engine.engine import Engine, Precision, Switch, choose_engine
from hast.engine.runtime import device_of
from hast.networks.plan import forward_macs


class Work(Protocol):
    """The section of a loop, which knows how much the loop computes."""

    @property
    def forward_passes(self) -> int:
        """As many forward passes of one image as the whole loop takes."""


def engine_for(
    config: Work, teacher: nn.Module, spec: ModelSpec, *,
    precision: Precision = "auto", compile: Switch = "auto",
) -> Engine:  # fmt: skip
    """How the loop of this section runs, on the device that the teacher is on."""
    work = work_of(config, teacher, spec)
    return choose_engine(device_of(teacher), work=work, precision=precision, compile=compile)


def work_of(config: Work, teacher: nn.Module, spec: ModelSpec) -> float:
    """Multiply-adds of the whole loop."""
    return forward_macs(teacher, spec) * config.forward_passes
