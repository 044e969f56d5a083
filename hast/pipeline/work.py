"""How much a loop computes decides how it runs."""

import time
from typing import Protocol

import torch
from torch import nn

from hast.config.spec import ModelSpec
from hast.engine.engine import Engine, Precision, Switch, choose_engine
from hast.engine.runtime import device_of
from hast.networks.plan import forward_macs

_TOGETHER = 16  # images of a step that is measured
_MEASURED = 1.0  # seconds


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


def measured_speed(network: nn.Module, spec: ModelSpec) -> float:
    """Forward passes of one image in a second, here and now, in steps as synthesis takes them.

    Args:
        network: frozen, eval mode.
        spec: what it expects.
    """
    images = torch.zeros(_TOGETHER, *spec.input_shape, device=device_of(network))

    def step() -> None:
        network(images.requires_grad_(True)).sum().backward()
        if images.is_cuda:
            torch.cuda.synchronize()

    step()  # the first one also allocates
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < _MEASURED:
        step()
        done += 1
    return 3 * done * _TOGETHER / (time.perf_counter() - start)
