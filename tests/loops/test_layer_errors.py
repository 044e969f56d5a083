import math

import pytest
import torch
from students import observed

from hast.loops.layer_errors import measure_layer_errors, worst_layers


def student_of(teacher, spec, bits, **rules):
    return observed(teacher, spec, torch.randn(64, *spec.input_shape), bits, **rules)


@pytest.fixture
def images(spec):
    return torch.randn(96, *spec.input_shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("placement", ["inputs", "relu"])
def test_more_bits_mean_less_error_in_every_layer(teacher, spec, images, placement):
    students = (student_of(teacher, spec, b, placement=placement) for b in ("w3a3", "w8a8"))
    few, many = ([*measure_layer_errors(teacher, student, images)] for student in students)
    assert [e.layer for e in few] == [e.layer for e in many]
    for low, high in zip(few, many, strict=True):
        for key in ("weight_sqnr", "output_sqnr"):
            worse, better = getattr(low, key), getattr(high, key)
            assert math.isnan(worse) or better > worse + 15  # 5 bits are about 30 dB


def test_the_weight_error_is_that_of_rounding(teacher, spec, images):
    student = student_of(teacher, spec, "w3a8", placement="inputs")
    errors = {e.layer: e for e in measure_layer_errors(teacher, student, images)}
    weight = teacher.classifier.weight
    noise = (weight - student.classifier.weight).square().sum()
    expected = 10 * torch.log10(weight.square().sum() / noise)
    assert errors["classifier"].weight_sqnr == pytest.approx(expected.item(), abs=1e-3)
    assert errors["classifier"].act_minimum <= 0 < errors["classifier"].act_maximum


def test_a_layer_is_looked_at_alone(teacher, spec, images):
    """Noise of an earlier layer does not reach the measure of a later one."""
    one = student_of(teacher, spec, "w8a8", placement="inputs")
    narrow = [{"match": "stem*", "weight_bits": 2}]
    other = student_of(teacher, spec, "w8a8", placement="inputs", overrides=narrow)
    a, b = (
        {e.layer: e.output_sqnr for e in measure_layer_errors(teacher, s, images)}
        for s in (one, other)
    )
    (stem,) = [name for name in a if name.startswith("stem")]
    assert b[stem] < a[stem] - 10
    assert b["classifier"] > 30 > b[stem]


def test_the_worst_layers_are_a_tenth_and_at_least_one():
    assert worst_layers({"a": 3.0, "b": 1.0, "c": float("nan")}) == {"b"}
    many = {str(i): float(i) for i in range(20)}
    assert worst_layers(many) == {"0", "1"}
    assert worst_layers({"a": float("nan")}) == set()
