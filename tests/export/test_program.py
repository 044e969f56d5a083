"""Students as `torch.export` programs."""

import platform

import pytest
import torch
import torch.nn.functional as F
from conftest import python, refused, spec_of
from students import Net, calibrated, warm_classifier, warm_network
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

import hast


@pytest.fixture(scope="module")
def classifier():
    return warm_classifier("builtin:digits_resnet", {"widths": (8, 16)}, (1, 8, 8))


@pytest.mark.parametrize(
    ("bits", "placement", "quantizer"),
    [("w3a3", "inputs", "minmax"), ("w8a2", "relu", "learned"), ("w4a32", "inputs", "learned")],
)
def test_any_batch_is_answered_the_same_to_the_bit(
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
    with refused("DigitsResNet is no student"):
        hast.export_program(classifier[0], tmp_path / "student.pt2")


@pytest.fixture(scope="module")
def residual():
    """Convolutions of three kinds, an addition, a clip, a pooling and a linear layer."""
    torch.manual_seed(0)
    parts = {
        "stem": nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        "depthwise": nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        ),
        "pointwise": nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)),
        "upwards": nn.ConvTranspose2d(16, 16, 2, stride=2),
        "head": nn.Linear(16, 10),
    }

    def compute(net, x):
        x = net.stem(x)
        x = F.relu6(x + net.pointwise(net.depthwise(x)))
        return net.head(net.upwards(x).relu().mean((2, 3)))

    spec = spec_of((3, 16, 16))
    return warm_network(Net(compute, **parts), spec), spec


def for_compilers(network, spec, bits, path):
    """Student and program of target pt2e."""
    student = calibrated(network, spec, bits, target="pt2e", placement="inputs")
    return student, torch.export.load(hast.export_program(student, path)).module()


@pytest.mark.parametrize("bits", ["w8a8", "w4a8", "w3a4", "w4a32"])
def test_a_program_for_compilers_answers_as_the_student(residual, bits, tmp_path):
    student, program = for_compilers(*residual, bits, tmp_path / "student.pt2")
    x = 3 * torch.randn(64, 3, 16, 16)  # wider than what set the ranges: many codes are clipped
    assert parity(student(x), program(x)) < 1e-3
    assert torch.equal(program(x[:1]).argmax(1), student(x[:1]).argmax(1))


def test_layers_of_a_program_for_compilers_read_bytes_and_codes_around_zero(residual, tmp_path):
    _, program = for_compilers(*residual, "w4a4", tmp_path / "student.pt2")
    made_by = {node: str(node.target) for node in program.graph.nodes}
    layers = [
        node for node in made_by if made_by[node] in ("aten.conv2d.default", "aten.linear.default")
    ]
    assert len(layers) == 4
    for layer in layers:
        activation, weight = layer.args[:2]
        assert made_by[activation] == "quantized_decomposed.dequantize_per_tensor.default"
        assert activation.args[3:6] == (0, 255, torch.uint8)
        assert made_by[weight] == "quantized_decomposed.dequantize_per_channel.default"
    for name, value in program.state_dict().items():
        if name.endswith("weight.original"):
            assert value.dtype == torch.int8
            assert value.abs().max() <= 64  # spread: 8 codes times 4, and room for no zero point
        if name.endswith("zero_point"):
            assert not value.any()


def test_a_student_of_another_target_moves_its_zero_points(residual, tmp_path):
    network, spec = residual
    student = calibrated(network, spec, "w8a8", placement="inputs")
    path = hast.export_program(student, tmp_path / "student.pt2", target="pt2e")
    x = torch.randn(64, 3, 16, 16)
    program = torch.export.load(path).module()
    assert parity(student(x), program(x)) < 0.05
    zero_points = [v for n, v in program.state_dict().items() if n.endswith("zero_point")]
    assert len(zero_points) == 5
    assert not torch.cat(zero_points).any()


def test_the_onnx_file_of_a_student_for_compilers_is_a_generic_one(residual, tmp_path):
    onnx = pytest.importorskip("onnx")
    network, spec = residual
    student = calibrated(network, spec, "w4a8", target="pt2e", placement="inputs")
    model = onnx.load(hast.export_onnx(student, tmp_path / "student.onnx"))
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert about["hast.target"] == "generic"


@pytest.mark.filterwarnings("ignore:To copy construct")  # torch's own
@pytest.mark.parametrize("bits", ["w8a8", "w3a4"])
def test_compiled_layers_are_computed_in_integers(residual, bits, tmp_path):
    pytest.importorskip("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    if not torch.backends.mkldnn.is_available() or platform.machine() != "x86_64":
        pytest.skip("needs Inductor's kernels for x86")
    student, program = for_compilers(*residual, bits, tmp_path / "student.pt2")
    x = 10 * torch.randn(64, 3, 16, 16)
    counters.clear()
    with torch.no_grad(), inductor.patch(freezing=True):
        compiled = torch.compile(program)(x)
    found = counters["inductor"]
    layers = found["qconv_unary_lower_count"] + found["qconv2d_binary_lower_count"]
    assert (layers, found["qlinear_unary_lower_count"]) == (3, 1)
    assert parity(student(x), compiled) < 1e-3


def parity(expected, found):
    """How far logits are apart on average, in standard deviations."""
    return ((expected - found).abs().mean() / expected.std()).item()
