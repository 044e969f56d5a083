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

from hast.engine.engine import Engine, Shape
from hast.engine.runtime import device_of, probe_images

_ALIKE = 0.01  # mean difference of logits over their deviation; a shift by a pixel is 0.2


@contextmanager
def strides_afterwards(network: nn.Module, shape: Shape, engine: Engine) -> Iterator[None]:
    """Let depthwise convolutions of a network take their strides so, where that is faster and the
    network then answers as before: others than the layer itself may look at its stride, to pad.

    Args:
        network: in eval mode.
        shape: (C, H, W) of its images.
        engine: of the loop inside.
    """
    with ExitStack() as stack:
        layers: list[Any] = [module for module in network.modules() if _is_strided(module)]
        if layers and engine.bf16 and device_of(network).type == "cpu":
            with torch.no_grad():
                images = probe_images(network, shape)
                expected = network(images)
                for layer in layers:
                    hook = partial(_thin, layer.stride)
                    # Before any other: a quantizer sees what the layer answers.
                    stack.enter_context(layer.register_forward_hook(hook, prepend=True))
                    stack.callback(setattr, layer, "stride", layer.stride)
                    layer.stride = (1, 1)
                if not _answers(network, images, expected):
                    stack.close()
        yield


def _is_strided(module: Any) -> bool:
    depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
    return depthwise and max(module.stride) > 1


def _answers(network: nn.Module, images: Tensor, expected: Tensor) -> bool:
    try:
        difference: Tensor = network(images) - expected
    except Exception:  # a forward may raise anything
        return False
    return bool(difference.abs().mean() <= _ALIKE * expected.std())


def _thin(stride: tuple[int, int], _module: nn.Module, _args: Any, output: Tensor) -> Tensor:
    return output[:, :, :: stride[0], :: stride[1]]
