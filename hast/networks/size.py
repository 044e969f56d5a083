"""Size of a network on disk when every code takes its true width."""

from torch import nn

from hast.networks.packed import Layout


def packed_size(network: nn.Module) -> int:
    """Bytes of the tensors that a packed checkpoint of the network holds.

    Codes and zero points of weights are packed per tensor; each output channel adds a float32
    scale, each activation quantizer a float32 scale and a one-byte zero point. All else (biases,
    BatchNorm) has its own type. Without quantizers it is the size in full precision.
    """
    return Layout(network).bytes()
