import pytest
import torch

from hast.math.rounding import rounding_logit, rounding_sharpness, soft_rounding


def test_it_starts_from_the_unrounded_weight():
    fraction = torch.linspace(0, 0.999, 50)
    assert torch.allclose(
        soft_rounding(rounding_logit(fraction), sharpness=1.0), fraction, atol=1e-6
    )


def test_a_sharp_one_has_decided_and_a_clear_decision_has_no_slope():
    logit = torch.tensor([-2.0, -0.3, 0.3, 2.0], requires_grad=True)
    h = soft_rounding(logit, sharpness=20.0)
    assert h.tolist() == [0, 0, 1, 1]
    h.sum().backward()
    assert logit.grad is not None
    assert logit.grad.tolist() == [0, 0, 0, 0]


def test_sharpness_grows_geometrically():
    assert rounding_sharpness(0.0, last=16.0) == 1
    assert rounding_sharpness(0.5, last=16.0) == pytest.approx(4)
    assert rounding_sharpness(1.0, last=16.0) == 16
