import pytest

from hast.math.intervals import mean_margin, paired_margin, wilson_interval


def test_the_wilson_interval_is_that_of_scipy():
    from scipy.stats import binomtest

    for count, trials in [(0, 10), (3, 10), (250, 599), (10, 10)]:
        expected = binomtest(count, trials).proportion_ci(0.95, method="wilson")
        assert wilson_interval(count, trials) == pytest.approx(
            (expected.low, expected.high), abs=1e-6
        )


def test_networks_that_never_differ_leave_no_margin():
    assert paired_margin(0, 0, 100) == 0.0


def test_the_paired_margin_by_hand():
    # Differences are +1 ten times, -1 four times, 0 else; 1.96 standard errors of their mean.
    differences = [1] * 10 + [-1] * 4 + [0] * 86
    mean = sum(differences) / 100
    variance = sum((d - mean) ** 2 for d in differences) / 100
    assert paired_margin(10, 4, 100) == pytest.approx(1.959964 * (variance / 100) ** 0.5)


def test_one_value_says_nothing_about_a_mean_and_many_do():
    assert mean_margin([0.3]) == float("inf")
    assert mean_margin([0.0, 1.0] * 50) == pytest.approx(1.959964 * 0.50252 / 10, rel=1e-3)
