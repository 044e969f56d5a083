"""How hard a sample is, and the loss that asks for hard samples.

    d(x, y) = 1 - p(y | x)                          difficulty; 0 is easy, 1 is hard
    L_hard  = mean_i d_i^gamma * CE_i               CE_i = -log p(y_i | x_i)

Plain cross-entropy goes on until the network is certain of every image; certain images lie far from
the boundaries between classes, and those are what quantization moves. The factor d^gamma lets a
sample that has become easy stop pulling: with CE ~ d for small d, its term falls as d^(gamma + 1).
It is the focal loss, on pixels in place of weights. For gamma = 0 the older methods come out.

1 - p must not be computed as written. Where p rounds to one, log(1 - p) is -inf though the other
classes still tell them apart, and for gamma < 1 (ImageNet's 0.5) the slope of (1 - p)^gamma is
infinite there: one easy image makes the gradient of the whole batch NaN. So everything below goes
through log(1 - p) = logsumexp over the *other* classes, exact at any p.

All functions take logits (N, K) and labels (N,) with values in [0, K).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_difficulty(logits: Tensor, labels: Tensor) -> Tensor:
    """d(x, y) = 1 - p(y | x), shape (N,), 0 is easy and 1 is hard.

    Source: HAST, section 3.1; for softmax cross-entropy it is GHM's gradient norm of the
    true-class logit (Li et al., AAAI 2019).
    """
    return _log_difficulty(logits, labels).exp()


def hard_sample_loss(logits: Tensor, labels: Tensor, *, gamma: float) -> Tensor:
    """L_hard = mean_i (1 - p_i)^gamma * CE_i, with p_i the probability of the label. Scalar.

    gamma = 0 is the plain cross-entropy. The weight is taken in log space: for gamma < 1 the slope
    of (1 - p)^gamma is infinite at p = 1, while log(1 - p) is smooth in the other logits.
    """
    ce = F.cross_entropy(logits, labels, reduction="none")
    if gamma == 0:
        return ce.mean()
    return ((gamma * _log_difficulty(logits, labels)).exp() * ce).mean()


def _log_difficulty(logits: Tensor, labels: Tensor) -> Tensor:
    """log(1 - p_y) as the log-sum-exp over the other classes: exact where p_y rounds to one."""
    log_p = logits.log_softmax(dim=1)
    others = log_p.masked_fill(F.one_hot(labels, logits.shape[1]).bool(), -torch.inf)
    return others.logsumexp(dim=1).clamp(max=0.0)  # rounding may put it above log 1
