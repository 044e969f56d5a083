"""Graphs for integer kernels: every tensor is quantized where it is made."""

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import refused, spec_of
from onnx_files import PLAIN, assert_near, onnx, onnxruntime, stored
from students import Net, NormAndActivation, calibrated, warm_network
from torch import nn

import hast
from hast.bank.toolkits import as_inputs
from hast.config.export import ExportConfig
from hast.export.bundle import check, compare_formats
from hast.export.inputs import takes
from hast.export.parity import logits_of
from hast.networks.provenance import spec_and_plan

SPEC = spec_of((3, 16, 16), 5, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
IMAGES = torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(5))


def compute(net, x):
    """A stem with pooling, a residual block with a projection, two branches, a mean."""
    x = net.pool(net.relu(net.norm(net.stem(x))))
    x = net.relu(net.deep_norm(net.deep(net.relu6(net.wide_norm(net.wide(x))))) + net.side(x))
    x = torch.cat([x, net.last(x)], 1)
    return net.fc(x.mean((2, 3)))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return warm_network(
        Net(
            compute,
            stem=nn.Conv2d(3, 8, 3, padding=1, bias=False), norm=nn.BatchNorm2d(8),
            pool=nn.MaxPool2d(3, 2, 1), relu=nn.ReLU(), relu6=nn.ReLU6(),
            wide=nn.Conv2d(8, 16, 3, padding=1, groups=8), wide_norm=nn.BatchNorm2d(16),
            deep=nn.Conv2d(16, 12, 1), deep_norm=nn.BatchNorm2d(12), side=nn.Conv2d(8, 12, 1),
            last=nn.Conv2d(12, 4, 1), fc=nn.Linear(16, 5),
        ),
        SPEC,
    )  # fmt: skip


def exported(network, folder, bits, target, inputs="normalized", **rules):
    student = calibrated(network, SPEC, bits, target=target, **rules)
    return student, hast.export_onnx(student, folder / "s.onnx", images=IMAGES, inputs=inputs)


def optimized(path, folder) -> Counter[str]:
    """The operators that ONNX Runtime runs with its default optimizations."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.mark.parametrize("bits", ["w8a8", "w7a8", "w4a8", "w3a5", "w4a4"])
def test_onnx_runtime_computes_the_whole_network_in_integers(network, bits, tmp_path):
    student, path = exported(network, tmp_path, bits, "onnxruntime")
    programs = [PLAIN, "onnx reference"]
    if bits != "w8a8":  # a processor without VNNI saturates sums of full bytes
        programs.append("onnxruntime")
    assert_near(student, path, IMAGES, 0.02, *programs, agreement=0.9)

    runs = optimized(path, tmp_path)
    assert runs["QLinearConv"] == 5
    assert (runs["QLinearAdd"], runs["QLinearConcat"], runs["QGemm"]) == (1, 1, 1)
    assert runs["QLinearGlobalAveragePool"] == 1
    floats = {"Conv", "Add", "Concat", "Gemm", "Relu", "BatchNormalization", "ReduceMean"}
    assert not floats & set(runs)
    if bits.endswith("a8"):
        assert "Clip" not in runs  # the range of a byte says it
        assert runs["QuantizeLinear"] == 1  # of the image


@pytest.mark.parametrize("bits", ["w7a8", "w4a8", "w4a4"])
def test_openvino_computes_all_layers_in_integers(network, bits, tmp_path):
    openvino = pytest.importorskip("openvino", reason="openvino is optional")
    student, path = exported(network, tmp_path, bits, "openvino")
    assert_near(student, path, IMAGES, 0.05, "openvino")
    model = openvino.Core().compile_model(str(path), "CPU").get_runtime_model()
    keys = ("layerType", "runtimePrecision")
    ran = [[op.get_rt_info()[key].astype(str) for key in keys] for op in model.get_ops()]
    precisions = [p for kind, p in ran if kind in ("Convolution", "FullyConnected")]
    assert len(precisions) == 6
    assert set(precisions) <= {"u8", "i8"}


def test_weights_of_8_bits_are_signed_with_zero_at_0_and_narrower_ones_spread(network, tmp_path):
    for bits, farthest in (("w8a8", 127), ("w4a8", 64)):
        _, path = exported(network, tmp_path, bits, "onnxruntime")
        signed = [array for array in stored(path).values() if array.dtype == np.int8]
        weights = [array for array in signed if array.ndim > 1]
        assert len(weights) == 6
        assert farthest // 2 < max(np.abs(w.astype(int)).max() for w in weights) <= farthest
        zero_points = [array for array in signed if array.ndim == 1]
        assert not any(zero_point.any() for zero_point in zero_points)


def test_a_file_for_tensorrt_keeps_its_rules(network, tmp_path):
    """INT8 with a zero point of 0, nothing between Q and DQ, Q and DQ around additions."""
    student, path = exported(network, tmp_path, "w4a8", "tensorrt")
    assert_near(student, path, IMAGES, 0.05, PLAIN)
    graph, tensors = onnx.load(path).graph, stored(path)
    maker = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert tensors[node.input[2]].dtype == np.int8
            assert not tensors[node.input[2]].any()
        if node.op_type in ("Conv", "Add", "Concat", "Gemm"):
            assert all(maker[name].op_type == "DequantizeLinear" for name in node.input[:2])
            assert all(tensors[name].dtype == np.float32 for name in node.input[2:])  # biases
        if node.op_type in ("Conv", "Gemm"):
            weight = maker[node.input[1]]
            assert [a.i for a in weight.attribute if a.name == "axis"] == [0]
            assert len(tensors[weight.input[1]]) == tensors[weight.input[0]].shape[0]
        if node.op_type == "QuantizeLinear":
            (reader,) = [other for other in graph.node if node.output[0] in other.input]
            assert reader.op_type == "DequantizeLinear"


def test_a_student_of_another_target_is_derived_anew_and_stays_what_it_was(network, tmp_path):
    student = calibrated(network, SPEC, "w8a8")
    before = logits_of(student, IMAGES)
    path, settings = tmp_path / "s.onnx", {"target": "tensorrt", "images": IMAGES}
    with refused(r"of 32 images are answered alike, .*; train it"):
        hast.export_onnx(student, path, **settings)  # random weights: close answers
    assert not path.exists()
    hast.export_onnx(student, path, **settings, min_agreement=0.8)
    assert_near(student, path, IMAGES, 0.1, PLAIN)
    assert not any(array.dtype == np.uint8 for array in stored(path).values())
    assert torch.equal(logits_of(student, IMAGES), before)


def test_a_packed_checkpoint_knows_its_target(network, tmp_path):
    student = calibrated(network, SPEC, "w8a8", target="onnxruntime")
    hast.save(student, tmp_path / "packed")
    loaded = hast.load(tmp_path / "packed", network=network)
    assert spec_and_plan(loaded)[1].target == "onnxruntime"
    assert torch.equal(logits_of(loaded, IMAGES), logits_of(student, IMAGES))
    files = [
        hast.export_onnx(s, tmp_path / f"{name}.onnx", images=IMAGES).read_bytes()
        for name, s in (("loaded", loaded), ("student", student))
    ]
    assert files[0] == files[1]


def test_a_channel_without_weights_keeps_its_bias(tmp_path):
    torch.manual_seed(0)
    network = warm_network(
        nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(784, 5)
        ),
        SPEC,
    )
    with torch.no_grad():
        network[2].weight[0] = 0.0
        network[2].weight[1] *= 1e-12
        network[2].bias[:2] = 3.0
    # At 8 bits a processor without VNNI would saturate sums of such large activations.
    student, path = exported(network, tmp_path, "w7a8", "onnxruntime")
    assert_near(student, path, IMAGES, 0.03, PLAIN, "onnxruntime")


def test_layers_that_are_skipped_stay_in_full_precision(network, tmp_path):
    student, path = exported(network, tmp_path, "w8a8", "onnxruntime", skip=("side", "fc"))
    assert_near(student, path, IMAGES, 0.05)
    runs = optimized(path, tmp_path)
    # The stem makes what `side` reads too, in floating point.
    floats = runs["Conv"] + runs["FusedConv"]  # with its ReLU
    assert (runs["QLinearConv"], floats, runs["Gemm"]) == (3, 2, 1)


def test_layers_of_equal_biases_one_called_twice_and_a_mean_that_answers(tmp_path):
    torch.manual_seed(0)
    network = warm_network(
        Net(
            lambda net, x: net.last(net.twice(net.twice(net.relu(net.stem(x))))).mean((2, 3)),
            stem=nn.Conv2d(3, 4, 3), twice=nn.Conv2d(4, 4, 1), last=nn.Conv2d(4, 5, 1),
            relu=nn.ReLU(),
        ),
        SPEC,
    )  # fmt: skip
    for layer in (network.stem, network.twice):
        nn.init.constant_(layer.bias, 0.5)
    student, path = exported(network, tmp_path, "w4a8", "onnxruntime")
    assert_near(student, path, IMAGES, 0.05)
    assert [output.name for output in onnx.load(path).graph.output] == ["logits"]
    assert optimized(path, tmp_path)["QLinearConv"] == 4


@pytest.mark.parametrize(("bits", "factor"), [("w2a4", 16), ("w4a4", 4), ("w6a4", 1)])
def test_codes_are_spread_over_the_byte_without_changing_a_weight(network, bits, factor, tmp_path):
    student = calibrated(network, SPEC, bits, target="onnxruntime")
    path = hast.export_onnx(student, tmp_path / "s.onnx", images=IMAGES, fold_batch_norm=False)
    for name in ("stem", "deep"):
        codes = stored(path)[f"{name}.parametrizations.weight.original"]
        scale = stored(path)[f"{name}.parametrizations.weight.0.scale"]
        assert (codes % factor == 0).all()
        weight = torch.tensor(codes) * torch.tensor(scale).view(-1, 1, 1, 1)
        assert torch.equal(weight, student.get_submodule(name).weight)


@pytest.mark.parametrize(
    ("bits", "inputs"), [("w4a8", "bytes"), ("w4a8", "pixels"), ("w4a32", "normalized")]
)
def test_other_inputs_and_float_activations_work_with_a_target(network, bits, inputs, tmp_path):
    student, path = exported(network, tmp_path, bits, "onnxruntime", inputs)
    assert_near(takes(student, SPEC, inputs), path, as_inputs(IMAGES, SPEC, inputs), 0.05)


def test_images_of_another_network_and_none_at_all_are_one_clear_line(network, tmp_path):
    student = calibrated(network, SPEC, "w8a8", target="onnxruntime")
    for images in (None, IMAGES[:0], IMAGES[:, :1]):
        with refused(r"some images of the bank.*\(N, 3, 16, 16\), got"):
            hast.export_onnx(student, tmp_path / "s.onnx", images=images)
    assert not list(tmp_path.iterdir())


def test_the_paper_s_placement_is_completed_too(network, tmp_path):
    student, path = exported(network, tmp_path, "w4a8", "onnxruntime", placement="relu")
    assert_near(student, path, IMAGES, 0.05)
    assert optimized(path, tmp_path)["QLinearConv"] == 5


@pytest.mark.parametrize(("inputs", "first"), [("normalized", "last"), ("bytes", "network.last")])
def test_a_file_that_differs_is_refused_with_its_first_such_layer(network, tmp_path, inputs, first):
    student, path = exported(network, tmp_path, "w4a8", "onnxruntime", inputs)
    config = ExportConfig(inputs=inputs)

    def check_all():
        forms, shown = {"onnx": path}, {"bank": IMAGES}
        for compared in compare_formats(student, forms, shown, config, "onnxruntime"):
            check(compared, config, spec_and_plan(student)[1])

    check_all()
    model = onnx.load(path)
    (layer,) = [node for node in model.graph.node if node.name.endswith("deep/Conv")]
    (weight,) = [node for node in model.graph.node if node.output[0] == layer.input[1]]
    (scale,) = [i for i in model.graph.initializer if i.name == weight.input[1]]
    wrong = onnx.numpy_helper.to_array(scale) * 10
    scale.CopyFrom(onnx.numpy_helper.from_array(wrong, scale.name))
    onnx.save(model, path)
    with refused(rf"; {first} is the first layer that reads other"):
        check_all()


def test_a_batch_norm_inside_another_module_and_a_layer_of_tokens_are_in_integers(tmp_path):
    torch.manual_seed(0)
    network = warm_network(
        Net(
            lambda net, x: net.head(
                net.fc(net.narrow_norm(net.narrow(net.norm(net.stem(x)))).flatten(2).mT)
                .relu().mean(1)
            ),
            stem=nn.Conv2d(3, 8, 3, padding=1, bias=False), norm=NormAndActivation(8),
            narrow=nn.Conv2d(8, 6, 1), narrow_norm=NormAndActivation(6),
            fc=nn.Linear(6, 12), head=nn.Linear(12, 5),
        ),
        SPEC,
    )  # fmt: skip
    with torch.no_grad():
        network.norm.weight[::2] *= -1  # a channel whose codes turn
    student, path = exported(network, tmp_path, "w4a8", "onnxruntime")
    assert_near(student, path, IMAGES, 0.03)
    runs = optimized(path, tmp_path)
    assert (runs["QLinearConv"], runs["MatMulIntegerToFloat"]) == (2, 1)
    assert not {"BatchNormalization", "MatMul", "Conv"} & set(runs)


class Padding(nn.Conv2d):
    """Pads more on one side than on the other, as networks from TensorFlow do."""

    def forward(self, x):
        return super().forward(F.pad(x, (0, 1, 0, 1)))


def test_a_convolution_takes_in_its_padding(tmp_path):
    """Nothing rounds a second time between the padding and the layer."""
    torch.manual_seed(0)
    network = warm_network(
        Net(
            lambda net, x: net.fc(net.deep(net.relu(net.stem(x))).mean((2, 3))),
            stem=Padding(3, 8, 3, 2), relu=nn.ReLU(),
            deep=Padding(8, 8, 3, padding=1, groups=8), fc=nn.Linear(8, 5),
        ),
        SPEC,
    )  # fmt: skip
    student, path = exported(network, tmp_path, "w4a8", "onnxruntime")
    assert spec_and_plan(student)[1].outputs == {"deep": ()}  # what the mean reads
    assert_near(student, path, IMAGES, 0.05, PLAIN, "onnxruntime")
    runs = optimized(path, tmp_path)
    assert (runs["QLinearConv"], runs["Pad"], runs["QuantizeLinear"]) == (2, 0, 1)
