import pytest
import torch
import torch.nn.functional as F

from hast.math.distillation import (
    alignment_loss,
    attention_vector,
    distillation_loss,
    promote_difficulty,
)


def test_distillation_is_temperature_squared_times_torch_kl():
    student, teacher = torch.randn(2, 8, 5)
    expected = 9 * F.kl_div(
        F.log_softmax(student / 3, 1), F.softmax(teacher / 3, 1), reduction="batchmean"
    )
    loss = distillation_loss(student, teacher, temperature=3.0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert distillation_loss(teacher, teacher, temperature=3.0).item() == pytest.approx(0, abs=1e-6)


def test_attention_is_a_unit_vector_over_channels():
    features = torch.randn(4, 6, 5, 5)
    vector = attention_vector(features)
    assert vector.shape == (4, 6)
    assert torch.allclose(vector.norm(dim=1), torch.ones(4))
    assert torch.allclose(attention_vector(features * 7), vector)


def test_alignment_sums_blocks_and_averages_elements():
    a, b = torch.zeros(2, 3), torch.full((2, 3), 2.0)
    assert alignment_loss([a, a, b], [b, b, b]).item() == pytest.approx(8)


def test_promotion_steps_along_the_sign_of_the_gradient():
    images, gradient = torch.zeros(1, 1, 1, 3), torch.tensor([[[[0.2, -9.0, 0.0]]]])
    promoted = promote_difficulty(images, gradient, step=0.01)
    assert torch.allclose(promoted.flatten(), torch.tensor([0.01, -0.01, 0.0]))
