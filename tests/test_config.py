import pytest
from conftest import refused

from hast.config.bit_width import BitWidth, load_bit_widths
from hast.config.finetune import FinetuneConfig
from hast.config.params import check_params
from hast.config.section import load_section
from hast.config.spec import ModelSpec
from hast.config.synthesize import SynthesisConfig


@pytest.fixture
def params(tmp_path):
    path = tmp_path / "params.yaml"

    def write(text: str):
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quantize: {steps: -1}", "quantize.steps: .* greater than or equal to 0, got -1"),
        ("quantize: {stepz: 5}", "quantize.stepz: unknown parameter, got 5"),
        ("quantize: {flip: 7}", "quantize.flip: .* got 7"),
        ("quantize: {sampling: best}", "quantize.sampling: .* or 'difficulty', got 'best'"),
        ("quantize: {learning_rate: .nan}", "quantize.learning_rate: .*finite number, got nan"),
        ("quantize: [1]", "section 'quantize' must be a mapping, got .1."),
        ("quantize: {learning_rate: .inf}", "quantize.learning_rate: .*finite number, got inf"),
        ("quantize: {milestones: [3, 1]}", "quantize.milestones: .*must be ascending"),
        ("other: {}", "section 'quantize' must be a mapping, got None"),
        ("quantize: {steps: 1", "not valid YAML"),
        ("- 1", "must hold a mapping of sections, got list"),
    ],
)
def test_a_wrong_value_is_one_line_with_key_rule_and_value(params, text, message):
    with refused(message):
        load_section(params(text), "quantize", FinetuneConfig)


def test_a_missing_file_is_said_plainly(tmp_path):
    with refused("no such file; run from the project's root"):
        load_section(tmp_path / "nothing.yaml", "quantize", FinetuneConfig)


def test_numbers_are_read_as_dvc_reads_them(params):
    path = params("synthesize: {learning_rate: 1e-3, min_learning_rate: 5E-4, steps: 10}")
    config = load_section(path, "synthesize", SynthesisConfig)
    assert (config.learning_rate, config.min_learning_rate) == (1e-3, 5e-4)


def test_bit_widths_are_read(params):
    assert load_bit_widths(params("bit_widths: [w4a4, w3a8]")) == [BitWidth(4, 4), BitWidth(3, 8)]
    assert str(BitWidth(3, 8)) == "w3a8"


@pytest.mark.parametrize("text", ["w1a4", "w04a4", "w4a9", "4", "w4", "W4A4", "w4a4 ", "w44a4"])
def test_a_malformed_width_is_refused(text):
    with refused(r"must be written w<bits>a<bits> with 2 to 8 bits"):
        BitWidth.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bit_widths: []", "must be a non-empty list"),
        ("bit_widths: w4a4", "must be a non-empty list"),
        ("bit_widths: [w4a4, w4a4]", "must not name a width twice"),
        ("bit_widths: [w4a4]\nquantise: {}", "unknown section 'quantise'"),
    ],
)
def test_malformed_widths_and_unknown_sections_are_refused(params, text, message):
    with refused(message):
        check_params(params(text))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"mean": (0.5,)}, "ModelSpec: mean and std must have one value for each of 3 channels"),
        ({"num_classes": 1}, "ModelSpec.num_classes: Input should be greater than or equal to 2"),
        ({"std": (0.0,) * 3}, "ModelSpec.std.0: Input should be greater than 0, got 0.0"),
        ({"class_names": ("a",)}, "ModelSpec: class_names must be empty or name all 4 classes"),
        ({"names": ()}, r"ModelSpec.names: unknown parameter, got \(\)"),
    ],
)
def test_a_spec_must_agree_with_itself(change, rule):
    good = {"input_shape": (3, 8, 8), "num_classes": 4, "mean": (0.5,) * 3, "std": (0.2,) * 3}
    ModelSpec(**good)
    with refused(rule):
        ModelSpec(**(good | change))
