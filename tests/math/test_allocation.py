import itertools

import pytest

from hast.math.allocation import allocate_bits

SENSITIVITY = {
    "small": {2: 5.0, 4: 1.0, 8: 0.0},
    "large": {2: 0.5, 4: 0.3, 8: 0.0},
    "medium": {2: 9.0, 4: 2.0, 8: 0.1},
}
PARAMETERS = {"small": 10, "large": 100, "medium": 40}


def damage(bits):
    return sum(SENSITIVITY[layer][b] for layer, b in bits.items())


def average(bits):
    return sum(PARAMETERS[n] * b for n, b in bits.items()) / sum(PARAMETERS.values())


@pytest.mark.parametrize("budget", [2.0, 3.0, 4.0, 5.5, 8.0])
def test_the_choice_is_the_best_of_all_within_the_budget(budget):
    chosen = allocate_bits(SENSITIVITY, PARAMETERS, average_bits=budget)
    every = [
        dict(zip(SENSITIVITY, widths, strict=True))
        for widths in itertools.product((2, 4, 8), repeat=3)
    ]
    best = min(damage(bits) for bits in every if average(bits) <= budget)
    assert average(chosen) <= budget
    assert damage(chosen) == pytest.approx(best)


def test_a_budget_below_the_smallest_candidates_is_refused():
    with pytest.raises(ValueError, match=r"smallest candidates already average 4.00"):
        allocate_bits({"a": {4: 1.0, 8: 0.0}}, {"a": 10}, average_bits=3)


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1e6])
def test_the_unit_of_the_damage_does_not_matter(scale):
    scaled = {n: {b: d * scale for b, d in by.items()} for n, by in SENSITIVITY.items()}
    expected = allocate_bits(SENSITIVITY, PARAMETERS, average_bits=4)
    assert allocate_bits(scaled, PARAMETERS, average_bits=4) == expected
