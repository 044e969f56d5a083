"""What fine-tuning minimises: distillation, feature alignment and difficulty promotion.

    L(x) = alpha * T^2 * KL(softmax(f / T) || softmax(q / T))
           + lambda * sum_blocks mean[(A_q - A_f)^2]
    x'   = x + epsilon * sign(dL / dx)
    total: L(x) + L(x')

with f the teacher's logits and q the student's. No labels occur: on synthetic images the teacher's
whole answer says more than the label that the image was made for.

T = 20 makes both distributions nearly flat, and then T^2 * KL tends to the squared difference of
the logits, less their means, over 2K: the student is to copy all logits, not the winner alone. T^2
keeps the gradient's size when T changes.

The attention vector A says which channels of a block answer, and no more: the mean over positions
takes place away and the norm takes size away, so that a student whose features are smaller by a
factor, which later layers can undo, is not punished. It is taken before the shortcut is added,
which would hide what the block itself contributes.

x' is the one-step adversarial example of the *student's* distance from the teacher. The gradient
passes both networks: where the teacher turns as well, nothing is gained by going there.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def distillation_loss(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """T^2 * KL(softmax(f / T) || softmax(q / T)), batch mean, in nats. Scalar.

    Args:
        student: logits q, (N, K).
        teacher: logits f, (N, K).
        temperature: T > 0.

    Source: Hinton et al., 2015 (arXiv:1503.02531).
    """
    log_q = (student / temperature).log_softmax(dim=1)
    log_f = (teacher / temperature).log_softmax(dim=1)
    return temperature**2 * F.kl_div(log_q, log_f, reduction="batchmean", log_target=True)


def attention_vector(features: Tensor) -> Tensor:
    """A: spatial mean of the squared features (N, C, H, W), L2-normalised over channels: (N, C)."""
    return F.normalize(features.float().square().mean(dim=(2, 3)), dim=1)


def alignment_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """L_FA / lambda = sum over blocks of mean[(A_q - A_f)^2]. Scalar.

    Args:
        student: one attention vector (N, C) a block.
        teacher: the same blocks of the teacher.

    Source: HAST, feature alignment.
    """
    gaps = [(q - f).square().mean() for q, f in zip(student, teacher, strict=True)]
    return torch.stack(gaps).sum()


def promote_difficulty(images: Tensor, image_gradient: Tensor, *, step: float | Tensor) -> Tensor:
    """x' = x + epsilon * sign(d L / d x): one step towards images that the student finds harder.

    Args:
        images: (N, C, H, W), normalized pixels.
        image_gradient: same shape.
        step: epsilon, in normalized pixels.
    """
    return (images + step * image_gradient.sign()).detach()
