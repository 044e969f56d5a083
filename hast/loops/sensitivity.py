"""How much does each layer suffer from each weight width, measured on synthetic samples.

    damage(layer, bits) = mean KL(teacher's answer || answer with this layer's weight alone rounded)

One layer at a time, all others in full precision, activations too: what is wanted is the order of
the layers, and together their errors would hide each other. The measure is the answer and not the
weight's own rounding error, for a layer with large errors in directions that nothing reads is
harmless. What becomes of the numbers is in math/allocation.py.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrize

from hast.engine.engine import Images
from hast.engine.runtime import device_of, loop
from hast.math.distillation import distillation_loss
from hast.networks.plan import channel_axis
from hast.networks.quantizers import WeightQuantizer

_BATCH_SIZE = 64


class LayerSensitivity(NamedTuple):
    layer: str
    bits: int
    damage: float  # KL(teacher || teacher with this one layer quantized), nats


@loop
def measure_sensitivity(
    teacher: nn.Module, images: Images, layers: Sequence[str], candidates: Sequence[int]
) -> Iterator[LayerSensitivity]:
    """Quantize the weight of one layer at a time and compare the answers with the teacher's.

    Args:
        teacher: frozen, eval mode.
        images: (N, C, H, W), normalized pixels.
        layers: names of modules with a weight.
        candidates: widths to try.
    """
    device = device_of(teacher)
    batches = [batch.to(device) for batch in images.split(_BATCH_SIZE)]
    probe = copy.deepcopy(teacher)
    with torch.no_grad():
        answers = [teacher(batch) for batch in batches]
    for layer in layers:
        module = probe.get_submodule(layer)
        for bits in candidates:
            quantizer = WeightQuantizer(bits, channel_axis(module))
            parametrize.register_parametrization(module, "weight", quantizer)
            with torch.no_grad():
                total = sum(
                    distillation_loss(probe(x), y, temperature=1.0).item() * len(x)
                    for x, y in zip(batches, answers, strict=True)
                )
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
            yield LayerSensitivity(layer, bits, total / len(images))
