"""Networks without BatchNorm, from a folder of pictures to a student, in Python."""

import pytest
import torch
from conftest import refused
from pictures import BUILDERS, SPEC, built, make_pictures

import hast
from hast.report.page import bank_page

pytestmark = pytest.mark.filterwarnings("ignore::hast.errors.HastWarning")  # of attention

QUIET = {"progress": False}
FAST = {"calibration": {"batches": 2, "batch_size": 16}, **QUIET}
LEARNED = {"quantizer": "learned"}


@pytest.fixture(scope="module", params=[*BUILDERS])
def made(request, tmp_path_factory):
    """A teacher and its bank of pictures."""
    folder = tmp_path_factory.mktemp(request.param)
    teacher = built(request.param)
    pictures = make_pictures(folder / "pictures", 48)
    return teacher, hast.import_pictures(pictures, folder / "bank", teacher, SPEC, **QUIET)


def agreement(student, teacher, bank):
    with torch.no_grad():
        answers = [network(bank.images[:]).argmax(1) for network in (student, teacher)]
    return (answers[0] == answers[1]).float().mean().item()


def test_the_teachers_answers_differ_so_that_agreement_says_something(made):
    _, bank = made
    assert len(bank.labels.unique()) > 2


@pytest.mark.parametrize("steps", [0, 5])
def test_eight_bits_answer_as_the_teacher(made, steps):
    teacher, bank = made
    student = hast.calibrate(
        teacher, SPEC, bank, layers=LEARNED, reconstruction={"steps": steps, "samples": 32}, **FAST
    )
    assert agreement(student, teacher, bank) > 0.9  # 1.0 and 0.96 were found


def test_fine_tuning_keeps_a_student_near_its_teacher(made):
    teacher, bank = made
    student = hast.quantize(
        teacher, SPEC, bank, weight_bits=4, act_bits=8, steps=3, batch_size=8, **FAST
    )
    assert agreement(student, teacher, bank) > 0.7  # 0.88 and 0.81 were found


def test_a_bank_of_pictures_has_a_page_without_a_gap(made, tmp_path):
    _, bank = made
    page = bank_page(bank)
    assert "48 samples" in page
    assert "Not measured: the teacher has no BatchNorm layers" in page


@pytest.mark.parametrize("make", [hast.synthesize, hast.train_generator, hast.quantize_zero_shot])
def test_what_matches_statistics_refuses_and_names_the_way_out(made, make):
    teacher, _ = made
    with refused(r"no BatchNorm .* or hast\.import_pictures"):
        make(teacher, SPEC, **QUIET)
