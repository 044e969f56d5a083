"""Measure a network from Python."""

import copy
from collections.abc import Iterable, Sized

import torch
from torch import Tensor, nn

from hast.errors import InputError
from hast.loops.evaluate import Evaluation, joined, predict
from hast.networks.batch_norm import freeze
from hast.progress import track
from hast.runtime import device_of

Device = torch.device | str | None


def evaluate(
    network: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    teacher: nn.Module | None = None,
    device: Device = None,
    progress: bool = True,
) -> Evaluation:
    """Measure a network on labelled images, in eval mode and fp32.

    Args:
        network: a teacher or a student.
        loader: normalized images (N, C, H, W) and labels (N,).
        teacher: the network to which `agreement` is measured; by default `network` itself.
        device: where to compute; by default where the network is.
        progress: show a bar, or lines where there is no terminal.

    Returns:
        A record with `top1`, `top5` and `agreement`, in [0, 1], and the number of `samples`.

    Raises:
        InputError: the loader is empty.
    """
    device = device or device_of(network)
    subject = freeze(copy.deepcopy(network)).to(device)
    reference = subject if teacher is None else freeze(copy.deepcopy(teacher)).to(device)
    total = len(loader) if isinstance(loader, Sized) else None
    said = predict({"network": subject, "reference": reference}, loader)
    records = [*track(said, total=total, label="evaluate", show=progress)]
    if not records:
        raise InputError("evaluate: the loader must yield at least one batch, it is empty")
    return joined(records).evaluation("network", reference="reference")
