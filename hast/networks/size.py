"""Size of a network on disk when every code takes its true width."""

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from hast.networks.quantizers import ActivationQuantizer

_FLOAT_BYTES = 4


def packed_size(network: nn.Module) -> int:
    """Bytes of the network when every code takes its true width.

    Weight codes are packed per tensor; each output channel adds a float32 scale and a one-byte zero
    point, and so does each activation quantizer. All else (biases, BatchNorm) is float32.
    """
    size = 0
    quantized: set[int] = set()
    for module in network.modules():
        if isinstance(module, ActivationQuantizer):
            size += _FLOAT_BYTES + 1
            quantized.update(map(id, [*module.parameters(), *module.buffers()]))
        if parametrize.is_parametrized(module, "weight"):
            parametrizations: Any = module.parametrizations
            original, bits = parametrizations.weight.original, parametrizations.weight[0].bits
            quantized.add(id(original))
            quantizer = parametrizations.weight[0]
            quantized.update(map(id, [*quantizer.parameters(), *quantizer.buffers()]))
            size += -(-original.numel() * bits // 8) + original.shape[0] * (_FLOAT_BYTES + 1)
    rest = [*network.parameters(), *network.buffers()]
    return size + sum(_FLOAT_BYTES * t.numel() for t in rest if _is_stored(t, quantized))


def _is_stored(tensor: Tensor, quantized: set[int]) -> bool:
    # BatchNorm's integer step counter is no part of the network's function.
    return tensor.is_floating_point() and id(tensor) not in quantized
