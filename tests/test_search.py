"""The search for the fewest bits, on students whose loss is known."""

import pytest
import torch
from students import calibrated, warm_classifier
from torch import nn

from hast.config.bit_width import BitWidth
from hast.pipeline.search import WIDTHS, Candidate, Trial, easiest_layers, search

CONV = ("builtin:digits_resnet", {"widths": (4, 8)}, (1, 8, 8))


@pytest.fixture(scope="module")
def network():
    return warm_classifier(*CONV)


def student_of(network, candidate: Candidate) -> nn.Module:
    teacher, spec = network
    overrides = [override.model_dump() for override in candidate.overrides]
    return calibrated(teacher, spec, str(candidate.bits), overrides=overrides)


def found(network, *, needs: BitWidth, attempts: int = 99):
    """Trials where just those candidates hold that nowhere have fewer bits than `needs`."""

    def attempt(candidate: Candidate) -> Trial:
        bits = candidate.bits
        narrow = [o.weight_bits or o.act_bits for o in candidate.overrides]
        holds = bits.weight_bits >= needs.weight_bits and bits.act_bits >= needs.act_bits
        holds = holds and all(n >= max(needs) for n in narrow)
        return Trial(candidate, student_of(network, candidate), 0, 0.0, 0.0, holds)

    images = torch.randn(8, 1, 8, 8)
    return list(search(attempt, network[0], images, attempts=attempts))


@pytest.mark.parametrize("needs", [BitWidth(8, 8), BitWidth(4, 4), BitWidth(2, 6), BitWidth(5, 3)])
def test_the_fewest_bits_of_both_are_found(network, needs):
    trials = found(network, needs=needs)
    best = [t for t in trials if t.holds][-1].candidate
    wanted = BitWidth(*(min(w for w in WIDTHS if w >= bits) for bits in needs))
    assert best == Candidate(wanted)
    assert len(trials) <= 10
    assert len({t.candidate for t in trials}) == len(trials)


def test_no_more_candidates_are_made_than_allowed(network):
    trials = found(network, needs=BitWidth(4, 4), attempts=4)
    assert len(trials) == 4
    assert any(t.holds for t in trials)


def test_where_nothing_holds_that_is_known_from_the_widest(network):
    trials = found(network, needs=BitWidth(9, 9))
    assert not any(t.holds for t in trials)
    assert trials[-1].candidate == Candidate(BitWidth(8, 8))


def test_between_two_widths_the_layers_that_bear_it_best_are_narrower(network):
    teacher, spec = network
    for kind, held, failed in (("weight_bits", "w4a8", "w2a8"), ("act_bits", "w8a8", "w8a3")):
        wide, narrow = (calibrated(teacher, spec, bits) for bits in (held, failed))
        order = easiest_layers(teacher, wide, narrow, kind, torch.randn(16, *spec.input_shape))
        quantized = wide.hast_provenance.plan.weights
        # The picture has 8 bits in both.
        assert set(order) == set(quantized) - ({"stem.0"} if kind == "act_bits" else set())

    def attempt(candidate: Candidate) -> Trial:
        few = candidate.bits.weight_bits >= 4 and len(candidate.overrides) <= len(order) // 2
        holds = few and candidate.bits.act_bits >= 8
        return Trial(candidate, student_of(network, candidate), 0, 0.0, 0.0, holds)

    trials = list(search(attempt, teacher, torch.randn(8, *spec.input_shape), attempts=99))
    best = [t for t in trials if t.holds][-1].candidate
    assert best.bits == BitWidth(4, 8)
    assert {o.weight_bits for o in best.overrides} == {3}
    assert 0 < len(best.overrides) <= len(order) // 2
