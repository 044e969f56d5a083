"""Score the bank: how hard is every sample for a network, mostly the calibrated student?

The teacher's difficulties lie in the bank, measured once when it is made. A student finds the same
samples harder, the more so the fewer its bits; where sampling goes by difficulty, it is that one.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hast.engine.engine import Images
from hast.engine.runtime import device_of, loop
from hast.math.hardness import sample_difficulty

SCORED_TOGETHER = 256


@loop
def score(network: nn.Module, images: Images, labels: Tensor) -> Iterator[Tensor]:
    """Difficulty of samples, batch by batch, in order.

    Args:
        network: eval mode.
        images: (N, C, H, W), normalized pixels.
        labels: (N,).

    Yields:
        (B,), 1 - p(y), in [0, 1], on the CPU.
    """
    device = device_of(network)
    pairs = zip(images.split(SCORED_TOGETHER), labels.split(SCORED_TOGETHER), strict=True)
    for x, y in pairs:
        with torch.no_grad():
            difficulty = sample_difficulty(network(x.to(device)), y.to(device))
        yield difficulty.float().cpu()
