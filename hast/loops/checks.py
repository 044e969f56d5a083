"""Checks that loops share."""

from collections.abc import Iterable

import torch
from torch import Tensor

from hast.errors import NonFiniteLossError

_CHECK_EVERY = 10  # reading a loss back waits for the device
_MESSAGE = "{}: the loss is not finite by step {}; likely cause: {}"


def check_finite(loss: Tensor, *, loop: str, step: int, steps: int, cause: str) -> None:
    """Stop a loop whose loss is NaN or infinite; looks at some steps and always at the last.

    Raises:
        NonFiniteLossError: with the step and the likely cause.
    """
    if (step % _CHECK_EVERY == 0 or step == steps - 1) and not torch.isfinite(loss):
        raise NonFiniteLossError(_MESSAGE.format(loop, step, cause))


def check_result(tensors: Iterable[Tensor], *, loop: str, steps: int, cause: str) -> None:
    """Stop a loop whose last step left NaN or infinity in what it made.

    Raises:
        NonFiniteLossError: with the number of steps and the likely cause.
    """
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise NonFiniteLossError(_MESSAGE.format(loop, steps, cause))
