"""Whether fine-tuning helps, seen on samples that it never trains on.

No test image may decide anything, and the loss says little: it falls while a network is taken
apart. What is left is to ask student and teacher for their answers on a part of the bank that is
held back, under the crops of fine-tuning (uncropped, the two agree on nearly all synthetic
images). The same crops are asked about each time, so two points are compared image by image, and a
difference counts when it is larger than its paired 95 % margin.
"""

import torch
from torch import Tensor, nn

from hast.config.finetune import FinetuneConfig
from hast.engine.engine import Images, place_images
from hast.engine.runtime import device_of, seeded
from hast.math.augmentation import random_resized_crop
from hast.math.intervals import paired_margin

_VIEWS = 256  # crops, however few samples they are of
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
        drawn = torch.arange(_VIEWS) % len(images)
        self._views = [
            random_resized_crop(
                place_images(images[part], device),
                min_scale=config.min_crop_scale, flip=config.flip, generator=random,
            )
            for part in drawn.split(_TOGETHER)
        ]  # fmt: skip
        self._answers = self._ask(teacher)

    def agreement(self, student: nn.Module) -> Tensor:
        """(V,) bool on the CPU: whether the student's answer is the teacher's."""
        return self._ask(student) == self._answers

    @torch.no_grad()
    def _ask(self, network: nn.Module) -> Tensor:
        return torch.cat([network(views).argmax(dim=1).cpu() for views in self._views])


def is_worse(now: Tensor, before: Tensor) -> bool:
    """Whether fewer answers agree than before, by more than the paired 95 % margin.

    Args:
        now, before: (V,) bool, of the same views.
    """
    lost, won = int((before & ~now).sum()), int((now & ~before).sum())
    return (lost - won) / len(now) > paired_margin(lost, won, len(now))
