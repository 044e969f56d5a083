"""Students as ONNX models, run by ONNX Runtime and by ONNX's own evaluator."""

import functools
import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from conftest import python, refused, spec_of
from onnx_files import PLAIN, assert_near, onnx, stored
from students import Net, calibrated, warm_classifier, warm_network
from torch import nn

import hast
from hast.config.targets import Target
from hast.export.parity import compare, predictor

EVERYWHERE = ("onnxruntime", PLAIN, "onnx reference")
SPEC = spec_of(
    (3, 12, 12), 5, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), class_names=tuple("abcde")
)


def small(compute=None) -> Net:
    """A convolution, a depthwise one, one ReLU for both, a skip connection, a linear layer."""

    def forward(net, x):
        x = net.relu(net.norm(net.stem(x)))
        return net.fc(net.relu(net.deep_norm(net.deep(x)) + x).mean((2, 3)))

    return Net(
        compute or forward,
        stem=nn.Conv2d(3, 8, 3, padding=1, bias=False), norm=nn.BatchNorm2d(8),
        deep=nn.Conv2d(8, 8, 3, padding=1, groups=8), deep_norm=nn.BatchNorm2d(8),
        relu=nn.ReLU(), fc=nn.Linear(8, 5),
    )  # fmt: skip


@pytest.fixture(scope="module")
def network():
    return warm_network(small(), SPEC)


def noise(spec, count=32):
    return torch.randn(count, *spec.input_shape, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    """Gives a student, and the file of its ONNX model; each is made once."""

    @functools.cache
    def make(bits: str, placement: str) -> tuple[nn.Module, Path]:
        student = calibrated(network, SPEC, bits, placement=placement)
        return student, hast.export_onnx(student, tmp_path_factory.mktemp("onnx") / "student.onnx")

    return lambda bits, placement="inputs": make(bits, placement)


@pytest.mark.parametrize(
    ("bits", "placement"),
    [
        *((bits, "inputs") for bits in ("w2a8", "w4a32", "w3a3", "w4a4", "w6a5", "w8a7")),
        ("w5a2", "relu"),
    ],
)
def test_every_width_and_placement_loads_everywhere_and_agrees(exported, bits, placement):
    assert_near(*exported(bits, placement), noise(SPEC), 0.02, *EVERYWHERE, agreement=0.96)


@pytest.mark.parametrize(
    ("bits", "kind"),
    [("w2a8", "INT4"), ("w3a3", "INT4"), ("w4a4", "UINT4"), ("w6a5", "INT8"), ("w8a7", "UINT8")],
)
def test_codes_take_the_narrowest_type_of_the_standard(exported, bits, kind):
    _, path = exported(bits)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    read = {n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    codes = [tensor for tensor in model.graph.initializer if tensor.name in read]
    assert len(codes) == 3
    assert {onnx.TensorProto.DataType.Name(w.data_type) for w in codes} == {kind}
    values = onnx.numpy_helper.to_array(codes[0]).astype(int)
    assert all(len(set(channel.flatten())) <= 2 ** int(bits[1]) for channel in values)
    assert len(codes[0].raw_data) == -(-values.size * (4 if "4" in kind else 8) // 8)


def test_activations_keep_their_range_inside_the_byte(exported):
    path = exported("w3a3")[1]
    nodes, tensors = onnx.load(path).graph.node, stored(path)
    clips = [n for n in nodes if n.op_type == "Clip"]
    quantizers = [n for n in nodes if n.op_type == "QuantizeLinear"]
    assert len(clips) == 2
    assert len(quantizers) == 3  # the image's codes fill the byte
    for clip in clips:
        low, high = (tensors[name] for name in clip.input[1:])
        assert (low, high) == (0, 7)
        assert low.dtype == high.dtype == "uint8"


def test_the_batch_may_have_any_size(exported):
    student, path = exported("w4a4")
    predict = predictor(path, PLAIN)
    for batch in (1, 2, 7):
        images = noise(SPEC, batch)
        torch.testing.assert_close(predict(images), student(images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("inputs", ["pixels", "bytes"])
def test_the_graph_can_normalize_pixels_itself(network, inputs, tmp_path):
    student = calibrated(network, SPEC, "w8a8")
    path = hast.export_onnx(student, tmp_path / "student.onnx", inputs=inputs)
    stored = torch.randint(256, (6, *SPEC.input_shape), dtype=torch.uint8)
    given = stored if inputs == "bytes" else stored / 255
    expected = student(SPEC.normalize(stored / 255))
    found = predictor(path, PLAIN)(given)
    assert compare(expected, found).mean_difference < 0.02 * expected.std()


def test_the_model_says_what_it_is(network, tmp_path):
    student = calibrated(network, SPEC, "w4a3", first_last_bits=8)
    path = hast.export_onnx(student, tmp_path / "student.onnx")
    model = onnx.load(path)
    about = {p.key: p.value for p in model.metadata_props}
    assert json.loads(about["hast.labels"]) == list("abcde")
    assert json.loads(about["hast.mean"]) == [0.4, 0.5, 0.6]
    assert json.loads(about["hast.std"]) == [0.2, 0.25, 0.3]
    assert json.loads(about["hast.plan"])["weights"] == {"stem": 8, "deep": 4, "fc": 8}
    assert about["hast.inputs"] == "normalized"
    assert len(about["hast.teacher"]) == 64
    assert [i.name for i in model.graph.input] == ["images"]
    assert [o.name for o in model.graph.output] == ["logits"]
    for value, sizes in ((model.graph.input[0], [3, 12, 12]), (model.graph.output[0], [5])):
        batch, *others = value.type.tensor_type.shape.dim
        assert (batch.dim_param, [d.dim_value for d in others]) == ("batch", sizes)
    assert b"/" + b"networks/quantizers.py" not in path.read_bytes()  # no path of this machine


def test_the_same_student_gives_the_same_bytes(network, exported, tmp_path):
    again = hast.export_onnx(calibrated(network, SPEC, "w4a4"), tmp_path / "deeper/student.onnx")
    assert again.read_bytes() == exported("w4a4")[1].read_bytes()


def test_a_loaded_checkpoint_exports_like_its_student(network, tmp_path):
    student = calibrated(network, SPEC, "w3a4", quantizer="learned")
    loaded = hast.load(hast.save(student, tmp_path / "packed"), network=small())
    path = hast.export_onnx(loaded, tmp_path / "student.onnx")
    assert_near(student, path, noise(SPEC), 0.02, PLAIN)


def test_a_linear_network_without_batch_norm_is_exported_too(tmp_path):
    spec = spec_of((1, 8, 8))
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
    student = calibrated(linear, spec, "w3a4")
    path = hast.export_onnx(student, tmp_path / "student.onnx")
    assert_near(student, path, noise(spec), 0.05, *EVERYWHERE, agreement=0.96)


ZOO = [
    "torchvision:resnet18",
    "torchvision:mobilenet_v2",
    "torchvision:mobilenet_v3_small",
    "torchvision:efficientnet_b0",
    "torchvision:shufflenet_v2_x0_5",
    "torchvision:densenet121",
    "torchvision:regnet_x_400mf",
    "timm:mobilenetv3_small_100",
    "timm:tf_efficientnet_b0",
    "timm:repvgg_a0",
    "timm:resnetv2_18",
    "timm:mobilevitv2_050",
]


@pytest.mark.slow
@pytest.mark.parametrize("source", ZOO)
@pytest.mark.parametrize("bits", ["w8a8", "w4a8", "w4a4"])
@pytest.mark.parametrize("target", get_args(Target))
def test_the_zoo_is_exported(source, target, bits, tmp_path):
    pytest.importorskip(source.partition(":")[0])
    pytest.importorskip("openvino", reason="openvino is an optional extra")
    if (target, bits) == ("tensorrt", "w4a4"):
        pytest.skip("TensorRT has no activations of 4 bits")
    network, spec = warm_classifier(source, {}, (3, 64, 64))
    placement = "relu" if source == "torchvision:resnet18" else "inputs"
    student = calibrated(network, spec, bits, placement=placement, target=target)
    path = hast.export_onnx(student, tmp_path / "student.onnx", images=noise(spec, 16))
    # A CPU has not the kernels of TensorRT.
    programs = (PLAIN,) if target == "tensorrt" else ("onnxruntime", "openvino")
    # Between quantizers of 4 bits, those of 8 move values to the next code (docs/export.md).
    limit = 0.5 if bits == "w4a4" else 0.2
    assert_near(student, path, noise(spec, 4), limit, *programs)


def test_what_cannot_be_exported_is_one_clear_line(network, tmp_path):
    student = calibrated(network, SPEC, "w4a4")
    for settings, message in (
        ({"target": "coreml"}, "target must be one of generic, onnxruntime, .*, got 'coreml'"),
        (
            {"target": "tensorrt", "images": noise(SPEC)},
            "deep: target 'tensorrt' has integer kernels for activations of 8 bits, got 4",
        ),
        ({"inputs": "jpeg"}, "inputs must be one of normalized, pixels, bytes, got 'jpeg'"),
    ):
        with refused(message):
            hast.export_onnx(student, tmp_path / "student.onnx", **settings)
    with refused("Net is no student"):
        hast.export_onnx(network, tmp_path / "student.onnx")

    branching = small(lambda net, x: net.fc(net.stem(x).mean((2, 3))) if x.sum() > -1e9 else x)
    branching = calibrated(warm_network(branching, SPEC), SPEC)
    with refused("Net cannot be exported"):
        hast.export_onnx(branching, tmp_path / "student.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("export", "place"),
    [(hast.export_onnx, "folder.onnx"), (hast.export_program, "/proc/student.pt2")],
)
def test_a_place_that_cannot_be_written_is_one_clear_line(exported, tmp_path, export, place):
    (tmp_path / "folder.onnx").mkdir()
    with refused("cannot be written"):
        export(exported("w4a4")[0], tmp_path / place)
    assert [p.name for p in tmp_path.rglob("*")] == ["folder.onnx"]


def test_without_the_extra_the_library_imports_and_the_export_says_what_to_install():
    code = (
        "import sys\n"
        "for name in ('onnx', 'onnxruntime', 'onnxscript', 'onnx_ir'):\n"
        "    sys.modules[name] = None\n"
        "import torch, hast\n"
        "from hast.export.onnx_graph import export_float_onnx\n"
        "hast.export_onnx(torch.nn.Identity(), 'x.onnx')\n"
    )
    assert python("-c", code, code=1).stderr.strip().endswith("run `pip install 'hast[onnx]'`")
