"""BatchNorm: its mode, its stored statistics, and a tap on what flows into it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from hast.math.quantization import per_channel
from hast.math.statistics import BatchNormCall, ChannelStatistics, channel_statistics
from hast.networks.hooks import copies_input, removed_at_exit, replaced_forwards

NetworkT = TypeVar("NetworkT", bound=nn.Module)


def freeze(network: NetworkT) -> NetworkT:
    """Eval mode and no parameter gradients: BatchNorm keeps the statistics of the data that nobody
    has any more. Gradients still reach the image through the network, which works on a copy of it:
    see `copies_input`."""
    copies_input(network)
    return network.eval().requires_grad_(False)


def batch_norms(network: nn.Module) -> list[BatchNorm]:
    """All BatchNorm layers with running statistics, subclasses included, in definition order."""
    return [m for m in network.modules() if isinstance(m, BatchNorm) and m.running_mean is not None]


def is_plain(module: nn.Module) -> bool:
    """Whether a module is BatchNorm in eval mode with running statistics and nothing more: a
    subclass may do more than normalize."""
    plain = type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return plain and module.running_var is not None and not module.training


def scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """What a plain BatchNorm in eval mode computes: x * scale + shift, each (C,)."""
    scale = (norm.running_var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.detach()
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach()


def folded_statistics(network: nn.Module) -> AbstractContextManager[None]:
    """Let the BatchNorm layers of a frozen network compute x * scale + shift, worked out once.

    Compiled code otherwise takes a root and a quotient for every few pixels. Equal to rounding.
    Subclasses keep their own `forward`, which may do more than normalize.
    """
    layers = [module for module in network.modules() if is_plain(module)]
    return replaced_forwards({m: partial(_apply, *scale_and_shift(m)) for m in layers})


def _apply(scale: Tensor, shift: Tensor, x: Tensor) -> Tensor:
    """scale, shift: (C,); computed in fp32 as BatchNorm does, answered in the type of `x`."""
    return (x.float() * per_channel(scale, x, 1) + per_channel(shift, x, 1)).to(x.dtype)


@contextmanager
def tap_batch_norm_inputs(network: nn.Module) -> Iterator[list[BatchNormCall]]:
    """Collect batch and running statistics at the input of every BatchNorm call, in call order.

    Yields:
        A list that each forward pass of `network` fills anew. Compiled code is compiled again where
        it finds it filled that was empty before, so what reads it inside compiled code clears it
        there.
    """
    tap: list[BatchNormCall] = []

    def clear(_module: nn.Module, _args: tuple[Any, ...]) -> None:
        tap.clear()

    def read(layer: Any, args: tuple[Any, ...]) -> None:
        running = ChannelStatistics(layer.running_mean, layer.running_var)
        batch = channel_statistics(args[0], around=layer.running_mean)
        tap.append(BatchNormCall(batch, running, layer.eps))

    handles = [network.register_forward_pre_hook(clear)]
    handles += [layer.register_forward_pre_hook(read) for layer in batch_norms(network)]
    with removed_at_exit(handles):
        yield tap
