"""Students as `torch.export` programs."""

import pytest
import torch
from conftest import python
from students import calibrated, warm_classifier

import hast


@pytest.fixture(scope="module")
def classifier():
    return warm_classifier("builtin:digits_resnet", {"widths": (8, 16)}, (1, 8, 8))


@pytest.mark.parametrize(
    ("bits", "placement", "quantizer"),
    [
        ("w3a3", "inputs", "minmax"),
        ("w8a2", "relu", "learned"),
        ("w4a32", "inputs", "learned"),
    ],
)
def test_a_program_answers_the_same_to_the_bit_for_any_batch(
    classifier, bits, placement, quantizer, tmp_path
):
    network, spec = classifier
    student = calibrated(network, spec, bits, placement=placement, quantizer=quantizer)
    path = hast.export_program(student, tmp_path / "student.pt2")
    program = torch.export.load(path).module()
    for batch in (1, 2, 33):
        x = torch.randn(batch, *spec.input_shape)
        assert torch.equal(program(x), student(x))


def test_it_loads_and_runs_without_this_package(classifier, tmp_path):
    network, spec = classifier
    student = calibrated(network, spec, "w3a4")
    hast.export_program(student, tmp_path / "student.pt2")
    x = torch.randn(5, *spec.input_shape)
    torch.save((x, student(x)), tmp_path / "expected.pth")
    code = (
        "import sys, torch\n"
        "sys.modules['hast'] = None\n"
        "x, expected = torch.load('expected.pth', weights_only=True)\n"
        "program = torch.export.load('student.pt2').module()\n"
        "print(torch.equal(program(x), expected))\n"
    )
    assert python("-c", code, cwd=tmp_path).stdout.strip() == "True"


def test_codes_take_one_byte_and_the_same_student_gives_the_same_bytes(classifier, tmp_path):
    network, spec = classifier
    student = calibrated(network, spec, "w4a4")
    one = hast.export_program(student, tmp_path / "one.pt2")
    two = hast.export_program(student, tmp_path / "elsewhere/two.pt2")
    assert one.read_bytes() == two.read_bytes()
    state = torch.export.load(one).state_dict
    codes = [t for name, t in state.items() if name.endswith("parametrizations.weight.original")]
    assert len(codes) == 7
    assert all(t.dtype == torch.uint8 for t in codes)
    assert str(tmp_path).encode() not in one.read_bytes()
    assert b"hast/networks" not in one.read_bytes()


def test_the_program_can_normalize_bytes_itself(classifier, tmp_path):
    network, spec = classifier
    student = calibrated(network, spec, "w4a4")
    path = hast.export_program(student, tmp_path / "student.pt2", inputs="bytes")
    images = torch.randint(256, (4, *spec.input_shape), dtype=torch.uint8)
    expected = student((images.float() / 255.0 - 0.5) / 0.25)
    assert torch.equal(torch.export.load(path).module()(images), expected)


def test_what_is_no_student_is_refused(classifier, tmp_path):
    with pytest.raises(hast.InputError, match="DigitsResNet is no student"):
        hast.export_program(classifier[0], tmp_path / "student.pt2")
