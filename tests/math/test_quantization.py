import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hast.math.quantization import (
    QParams,
    choose_qparams,
    dequantize,
    fake_quantize,
    fake_quantize_learned,
    quant_max_of,
    quantize,
    search_qparams,
)

BITS = range(2, 9)
VALUES = {
    "both signs": torch.linspace(-1.3, 2.1, 96),
    "positive only": torch.linspace(0.4, 2.1, 96),
    "negative only": torch.linspace(-2.1, -0.4, 96),
    "zero": torch.zeros(96),
    "one value": torch.full((96,), 0.7),
    "tiny": torch.linspace(-1e-30, 3e-30, 96),
}


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
@pytest.mark.parametrize("per_channel", [False, True])
def test_fake_quantize_is_explicit_integer_arithmetic_bit_for_bit(bits, values, per_channel):
    x = values.reshape(4, 24) if per_channel else values
    over = {"dim": 1, "keepdim": True} if per_channel else {}
    qparams = choose_qparams(x.amin(**over), x.amax(**over), bits=bits)

    scale, zero_point = qparams.scale, qparams.zero_point.to(torch.int32)
    x_int = (torch.round(x / scale).to(torch.int32) + zero_point).clamp(0, 2**bits - 1)
    expected = (x_int - zero_point).to(torch.float32) * scale

    assert torch.equal(fake_quantize(x, qparams), expected)
    assert torch.equal(quantize(x, qparams).to(torch.int32), x_int)
    assert torch.equal(dequantize(quantize(x, qparams), qparams), expected)
    assert ((zero_point >= 0) & (zero_point <= 2**bits - 1)).all()


@settings(deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=50),
    st.integers(min(BITS), max(BITS)),
)
def test_round_trip_error_is_at_most_half_a_step_and_zero_is_exact(values, bits):
    x = torch.tensor(values)
    qparams = choose_qparams(x.min(), x.max(), bits=bits)
    error = (fake_quantize(x, qparams) - x).abs()
    # The rounded zero point may shift the range by half a step more at its ends.
    assert (error <= qparams.scale * 1.001).all()
    codes = torch.round(x / qparams.scale) + qparams.zero_point
    inside = codes.clamp(0, 2**bits - 1) == codes
    assert (error[inside] <= qparams.scale / 2 + x.abs()[inside] * 1e-6).all()
    assert fake_quantize(torch.zeros(1), qparams).item() == 0


def test_gradient_passes_straight_through_clipped_values_too():
    x = torch.tensor([-5.0, -0.2, 0.3, 9.0], requires_grad=True)
    qparams = choose_qparams(torch.tensor(-1.0), torch.tensor(1.0), bits=3)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    (fake_quantize(x, qparams) * weights).sum().backward()
    assert torch.equal(x.grad, weights)


@pytest.mark.parametrize("bits", [1, 9, 0, -3])
def test_a_width_outside_the_range_is_refused(bits):
    with pytest.raises(ValueError, match=f"must lie in 2..8, got {bits}"):
        quant_max_of(bits)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_searched_ranges_never_round_worse_than_min_and_max(bits, values):
    x = values.reshape(4, 24)
    ranges = choose_qparams(x.amin(1, keepdim=True), x.amax(1, keepdim=True), bits=bits)
    found = search_qparams(x, bits=bits)
    plain, searched = ((x - fake_quantize(x, q)).square().mean(1) for q in (ranges, found))
    assert (searched <= plain).all()
    assert torch.equal(found.zero_point, found.zero_point.round())


def test_a_search_clips_an_outlier_that_min_and_max_follow():
    x = torch.cat([torch.linspace(-1, 1, 999), torch.tensor([8.0])]).view(1, -1)
    found = search_qparams(x, bits=3)
    assert found.scale.item() * found.quant_max < 5


@given(st.sampled_from(BITS), st.floats(0.01, 2), st.integers(0, 255))
@settings(max_examples=30, deadline=None)
def test_learned_values_are_those_of_fake_quantize(bits, scale, zero_point):
    top = quant_max_of(bits)
    qparams = QParams(torch.tensor(scale), torch.tensor(float(zero_point % (top + 1))), top)
    x = torch.linspace(-3, 3, 101)
    assert torch.equal(fake_quantize_learned(x, qparams), fake_quantize(x, qparams))


def test_what_is_clipped_moves_the_scale_and_not_itself():
    x = torch.tensor([-5.0, 0.26, 5.0], requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    fake_quantize_learned(x, QParams(scale, torch.tensor(1.0), 3)).sum().backward()
    assert x.grad.tolist() == [0, 1, 0]
    # LSQ: code - zero point where clipped, rounding error in steps where not.
    assert scale.grad.item() == pytest.approx((0 - 1) + (round(0.52) - 0.52) + (3 - 1))
