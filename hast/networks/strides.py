"""Depthwise convolutions with a stride, in a form whose gradient is fast in bf16 on a CPU.

For the gradient of what such a layer reads, oneDNN has no kernel in bf16 and takes its reference:
four of them took two fifths of a step of EfficientNet-Lite0. The same numbers come from a
convolution at every place, of which every second is taken.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hast.engine.engine import Engine
from hast.engine.runtime import device_of, seeded


@contextmanager
def strides_afterwards(network: nn.Module, engine: Engine) -> Iterator[None]:
    """Let depthwise convolutions of a network take their strides so, where that is faster."""
    with ExitStack() as stack:
        if engine.bf16 and device_of(network).type == "cpu":
            modules: list[Any] = [*network.modules()]
            for module in modules:
                if _is_depthwise(module) and _pads_alike(module):
                    hook = partial(_thin, module.stride)
                    # Before any other: a quantizer sees what the layer answers.
                    stack.enter_context(module.register_forward_hook(hook, prepend=True))
                    stack.callback(setattr, module, "stride", module.stride)
                    module.stride = (1, 1)
        yield


def _is_depthwise(module: Any) -> bool:
    depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
    return depthwise and max(module.stride) > 1


@torch.no_grad()
def _pads_alike(module: Any) -> bool:
    """Whether the stride changes nothing else. Some subclasses pad by it."""
    stride, random = module.stride, seeded(0, "strides")
    for side in (16, 17):
        x = torch.rand(1, module.in_channels, side, side, generator=random).to(module.weight)
        expected = module.forward(x)
        module.stride = (1, 1)
        try:
            found = _thin(stride, module, x, module.forward(x))
        finally:
            module.stride = stride
        if found.shape != expected.shape or not torch.allclose(found, expected, atol=1e-4):
            return False
    return True


def _thin(stride: tuple[int, int], _module: nn.Module, _args: Any, output: Tensor) -> Tensor:
    return output[:, :, :: stride[0], :: stride[1]]
