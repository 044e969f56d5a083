"""Whether fine-tuning helps, seen on samples that it never trains on.

No test image may decide anything, and the loss says little: it falls while a network is taken
apart. What is left is to ask student and teacher for their answers on a part of the bank that is
held back, under the crops of fine-tuning (uncropped, the two agree on nearly all synthetic
images). The same crops are asked about each time, so two points are compared image by image, and a
difference counts when it is larger than its 95 % margin over the images: crops of one image are no
independent witnesses.
"""

import torch
from torch import Tensor, nn

from hast.config.finetune import FinetuneConfig
from hast.engine.engine import Images, place_images
from hast.engine.runtime import device_of, seeded
from hast.math.augmentation import random_resized_crop
from hast.math.intervals import mean_margin

_VIEWS = 256  # crops at least, however few samples they are of
_TOGETHER = 64


class HeldBack:
    """Crops of samples, and the teacher's answers to them."""

    def __init__(self, teacher: nn.Module, images: Images, config: FinetuneConfig) -> None:
        """
        Args:
            teacher: eval mode.
            images: (N, C, H, W), normalized pixels, none of which is trained on.
            config: how they are cropped.
        """
        random, device = seeded(config.seed, "held back"), device_of(teacher)
        self._samples = min(len(images), _VIEWS)
        drawn = torch.arange(self._samples).repeat(-(-_VIEWS // self._samples))
        self._views = [
            random_resized_crop(
                place_images(images[part], device),
                min_scale=config.min_crop_scale, flip=config.flip, generator=random,
            )
            for part in drawn.split(_TOGETHER)
        ]  # fmt: skip
        self._answers = self._ask(teacher)

    def agreement(self, student: nn.Module) -> Tensor:
        """(V, N) bool on the CPU: whether the student's answer to crop V of sample N is the
        teacher's."""
        return (self._ask(student) == self._answers).view(-1, self._samples)

    @torch.no_grad()
    def _ask(self, network: nn.Module) -> Tensor:
        return torch.cat([network(views).argmax(dim=1).cpu() for views in self._views])


def is_worse(now: Tensor, before: Tensor) -> bool:
    """Whether fewer answers agree than before, by more than the paired 95 % margin.

    Args:
        now, before: (V, N) bool, of the same crops.
    """
    lost = before.float().mean(0) - now.float().mean(0)
    return lost.mean().item() > mean_margin(lost.tolist())
