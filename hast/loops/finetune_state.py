"""What a step of fine-tuning starts from: parameters, optimizer, schedule, random numbers, order.

It can be taken out as plain tensors and numbers and put in again, and the steps that follow are the
same to the bit.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hast.errors import InputError
from hast.loops.held_back import HeldBack
from hast.loops.order import BatchOrder


class Point(NamedTuple):
    """A student on the way."""

    step: int
    agrees: Tensor  # (V, N) bool, see `HeldBack`
    student: dict[str, Tensor]


@dataclass(eq=False)
class FinetuneState:
    """The moving parts of one fine-tuning."""

    student: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    order: BatchOrder
    random: torch.Generator
    step: int = 0
    first: Tensor | None = None  # (V, N) bool, agreement before the first step
    best: Point | None = None
    agreement: float = math.nan  # share of what is held back, when it was last looked at

    def look(self, held: HeldBack) -> Tensor:
        """Agreement on what is held back; the best point so far is remembered."""
        agrees = held.agreement(self.student)
        self.agreement = agrees.float().mean().item()
        if self.first is None:
            self.first = agrees
        if self.best is None or agrees.sum() > self.best.agrees.sum():
            own = self.student.state_dict()
            self.best = Point(self.step, agrees, {name: v.clone() for name, v in own.items()})
        return agrees

    def go_back(self) -> None:
        """Let the student be what it was at its best point."""
        assert self.best is not None, "somebody looked"
        self._restore_student(self.best.student)
        self.step = self.best.step

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """A copy as it goes to disk: tensors on the CPU, and plain JSON."""
        tensors = {f"student.{name}": v for name, v in self.student.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        if self.first is not None and self.best is not None:
            tensors |= {"first": self.first, "agrees": self.best.agrees}
            tensors |= {f"best.{name}": value for name, value in self.best.student.items()}
        tensors |= {"random": self.random.get_state(), "epoch": self.order.epoch}
        numbers = {
            "step": self.step,  # the next one
            "rates": [group["lr"] for group in self.optimizer.param_groups],
            "best": self.best and self.best.step,
            "agreement": self.agreement,
        }
        copies = {name: v.detach().cpu().contiguous().clone() for name, v in tensors.items()}
        return copies, numbers

    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Go on where a snapshot was taken.

        Raises:
            InputError: it was taken of something else.
        """
        self._restore_student(_under("student.", tensors))
        self.agreement = numbers["agreement"]
        if "first" in tensors:
            self.first = tensors["first"]
            self.best = Point(numbers["best"], tensors["agrees"], _under("best.", tensors))
        self._restore_optimizer(tensors)
        for group, rate in zip(self.optimizer.param_groups, numbers["rates"], strict=True):
            group["lr"] = rate
        self.random.set_state(tensors["random"])
        self.order.epoch = tensors["epoch"]
        self.step = self.schedule.last_epoch = numbers["step"]

    def _restore_student(self, stored: dict[str, Tensor]) -> None:
        own = self.student.state_dict()
        if own.keys() != stored.keys():
            raise InputError("the checkpoint belongs to another student; remove it and run again")
        for name, value in own.items():
            value.copy_(stored[name])  # in place: the layout in memory stays

    def _restore_optimizer(self, tensors: dict[str, Tensor]) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for name, value in _under("optimizer.", tensors).items():
            index, _, key = name.partition(".")
            parameter = parameters[int(index)]
            # As the optimizer lays it out: like its parameter, also in memory; the fused ones want
            # their count of steps where the parameter is.
            model = parameter if value.shape == parameter.shape else value
            place = torch.empty_like(model, device=parameter.device)
            self.optimizer.state[parameter][key] = place.copy_(value)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
