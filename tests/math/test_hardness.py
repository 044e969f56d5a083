import math

import pytest
import torch

from hast.math.hardness import hard_sample_loss, sample_difficulty

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0], [-3.0, 1.0, 4.0]])
LABELS = torch.tensor([0, 1, 0])


def test_difficulty_is_one_minus_the_probability_of_the_label():
    expected = 1 - LOGITS.softmax(1)[torch.arange(3), LABELS]
    assert torch.allclose(sample_difficulty(LOGITS, LABELS), expected)


def test_difficulty_is_exact_where_the_probability_rounds_to_one():
    logits = torch.tensor([[40.0, 0.0]])
    assert sample_difficulty(logits, torch.tensor([0])).item() == pytest.approx(math.exp(-40))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])  # 0 is plain cross-entropy
def test_hard_sample_loss_is_the_weighted_cross_entropy(gamma):
    p = LOGITS.softmax(1)[torch.arange(3), LABELS]
    expected = ((1 - p) ** gamma * -p.log()).mean()
    assert hard_sample_loss(LOGITS, LABELS, gamma=gamma).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("gamma", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("confidence", [20.0, 200.0])
def test_the_gradient_stays_finite_at_p_equal_one(gamma, confidence):
    logits = torch.tensor([[confidence, 0.0, 0.0]], requires_grad=True)
    hard_sample_loss(logits, torch.tensor([0]), gamma=gamma).backward()
    assert torch.isfinite(logits.grad).all()


def test_difficulty_never_exceeds_one():
    logits = 20 * torch.randn(10_000, 10, generator=torch.Generator().manual_seed(0))
    assert sample_difficulty(logits, torch.zeros(10_000, dtype=torch.int64)).max() <= 1
