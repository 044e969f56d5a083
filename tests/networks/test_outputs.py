"""Quantizers and biases that a student has because its target computes with them."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import refused, spec_of
from students import Net, NormAndActivation, calibrated, prepared, warm_network
from torch import nn
from torchvision.models.resnet import BasicBlock

import hast
from hast.export.parity import logits_of
from hast.loops.layer_errors import measure_layer_errors
from hast.networks.biases import round_biases
from hast.networks.blocks import find_blocks
from hast.networks.folding import fold_batch_norm, foldable
from hast.networks.provenance import spec_and_plan
from hast.networks.student import remove_quantizers

SPEC = spec_of((3, 16, 16), 5)
IMAGES = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    down = nn.Sequential(nn.Conv2d(8, 12, 1, 2, bias=False), nn.BatchNorm2d(12))
    return warm_network(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            BasicBlock(8, 8), BasicBlock(8, 12, 2, down),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
        ),
        SPEC,
    )  # fmt: skip


def outputs(network, bits="w8a8", target="onnxruntime", **rules):
    return spec_and_plan(prepared(network, SPEC, bits, target=target, **rules))[1].outputs


SUMMANDS = ("3.bn2", "4.bn2", "4.downsample.1")


def test_what_additions_read_and_what_several_layers_read_is_quantized_where_it_is_made(network):
    found = outputs(network)
    assert found == dict.fromkeys(SUMMANDS, ()) | {
        "2": ("3.conv1",), "3": ("4.conv1", "4.downsample.0"), "4": ()
    }  # fmt: skip
    assert [*found] == ["2", "3.bn2", "3", "4.bn2", "4.downsample.1", "4"]  # as they return


def test_layers_of_other_widths_round_once_more(network):
    assert outputs(network, "w4a4") == dict.fromkeys(("2", *SUMMANDS, "3", "4"), ())


def test_what_a_layer_in_full_precision_reads_is_left_alone(network):
    found = outputs(network, skip=("4.downsample.0",))
    assert "3" not in found
    assert "4.downsample.1" not in found


@pytest.mark.parametrize("target", ["generic", "pt2e"])
def test_a_target_that_computes_the_rest_in_floats_asks_for_nothing(network, target):
    assert outputs(network, target=target) == {}
    assert outputs(network, "w4a32") == {}


def test_quantizers_behind_relus_need_no_second_one(network):
    # The last layer, which has none in front, reads what the mean makes.
    assert outputs(network, placement="relu") == dict.fromkeys((*SUMMANDS, "6"), ())


def test_one_quantizer_is_not_shared_by_two_tensors():
    torch.manual_seed(0)
    twice = warm_network(
        Net(
            lambda net, x: net.fc((net.act(net.a(x)) + net.act(net.b(x))).mean((2, 3))),
            a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 4, 1), act=nn.ReLU(), fc=nn.Linear(4, 5),
        ),
        SPEC,
    )  # fmt: skip
    assert outputs(twice) == {}
    # What no module returns alone is left to the exporter, and so is a lone pooling's.
    student = calibrated(twice, SPEC, "w8a8", target="onnxruntime")
    assert logits_of(student, IMAGES).isfinite().all()


@pytest.mark.filterwarnings(
    "ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning"
)
def test_behind_a_function_that_nobody_sees_the_rest_is_quantized():
    unseen = torch.jit.script(nn.SiLU().eval())

    def block(net, x):
        return net.fc((net.norm(net.b(unseen(net.a(x)))) + net.short(x)).mean((2, 3)))

    layers = {"a": nn.Conv2d(3, 8, 1), "b": nn.Conv2d(8, 4, 1), "short": nn.Conv2d(3, 4, 1)}
    network = Net(block, **layers, norm=nn.BatchNorm2d(4), fc=nn.Linear(4, 5))
    warm_network(network, SPEC)
    assert outputs(network) == {"norm": (), "short": ()}
    assert foldable(network, SPEC) == {"b": "norm"}
    assert foldable(prepared(network, SPEC, "w4a4", quantizer="learned"), SPEC) == {"b": "norm"}
    assert find_blocks(network, SPEC) == ["norm"]


def parts(compute, **more):
    """Two convolutions of what a first one makes, and a mean; `compute` puts them together."""
    torch.manual_seed(0)
    layers = {"stem": nn.Conv2d(3, 4, 1), "a": nn.Conv2d(4, 4, 1), "b": nn.Conv2d(4, 4, 1)}
    net = Net(compute, **layers, fc=nn.Linear(4, 5), norm=nn.BatchNorm2d(4), **more)
    return warm_network(net, SPEC)


def answer(net, x):
    return net.fc(x.mean((2, 3)))


def with_an_identity(net, x):
    h = F.relu(net.stem(x))
    return answer(net, net.a(h) + net.b(net.same(h)))


def with_a_relu_in_place(net, x):
    h = net.norm(net.stem(x))
    return answer(net, net.a(net.act(h)) + net.b(h))


@pytest.mark.parametrize(
    ("compute", "more"),
    [
        (with_an_identity, {"same": nn.Identity()}),
        (with_an_identity, {"same": nn.Dropout()}),
        (with_a_relu_in_place, {"act": nn.ReLU(inplace=True)}),
    ],
)
def test_no_layer_reads_around_a_quantizer(compute, more):
    """What a module returns may be in other hands already: those would read floats."""
    student = calibrated(parts(compute, **more), SPEC, "w8a8", target="onnxruntime")
    read = {}
    for name in ("a", "b"):
        student.get_submodule(name).register_forward_hook(
            lambda _module, args, _output, name=name: read.update({name: len(args[0].unique())})
        )
    student(IMAGES)
    assert max(read.values()) <= 256


class Dense(nn.ModuleDict):
    """Calls all that it holds, as torchvision's dense blocks do."""

    def forward(self, x):
        made = [x]
        for layer in self.values():
            made.append(layer(torch.cat(made, 1)))
        return torch.cat(made, 1)


def test_a_container_that_calls_all_it_holds_gets_no_quantizer():
    dense = {"0": nn.Conv2d(4, 2, 1), "1": nn.Conv2d(6, 2, 1)}
    net = parts(
        lambda net, x: net.head(net.dense(net.a(net.stem(x))).mean((2, 3))),
        dense=Dense(dense), head=nn.Linear(8, 5),
    )  # fmt: skip
    assert "dense" not in outputs(net)
    assert calibrated(net, SPEC, "w8a8", target="onnxruntime")(IMAGES).isfinite().all()


def test_a_factor_is_no_integer_operand_so_logits_stay_floats():
    scaled = parts(lambda net, x: answer(net, net.a(F.relu(net.stem(x)))) * 30.0)
    assert outputs(scaled) == {"a": ()}  # what the mean reads


class Standardized(nn.Conv2d):
    """Computes another weight from its own."""

    def forward(self, x):
        weight = self.weight / self.weight.std() * 0.1
        return F.conv2d(x, weight, self.bias)


def test_biases_that_no_integer_kernel_adds_stay(network):
    net = parts(
        lambda net, x: net.fc(net.tokens(net.odd(F.relu(net.stem(x))).flatten(2).mT).mean(1)),
        odd=Standardized(4, 4, 1), tokens=nn.Linear(4, 4),
    )  # fmt: skip
    with torch.no_grad():
        net.odd.weight *= 300
    student = calibrated(net, SPEC, "w4a4", target="onnxruntime")
    before = {name: layer.bias.clone() for name, layer in student.named_children()}
    round_biases(student)
    changed = {
        name for name in before if not torch.equal(before[name], getattr(student, name).bias)
    }
    assert changed == {"stem", "fc"}


def test_a_bias_that_two_layers_share_stays_and_that_of_a_norm_in_another_module_does_not():
    net = parts(
        lambda net, x: answer(net, net.b(net.inner(net.a(F.relu(net.stem(x)))))),
        inner=NormAndActivation(4),
    )  # fmt: skip
    net.b.bias = net.stem.bias
    student = calibrated(net, SPEC, "w3a3", target="onnxruntime")
    shared, norm = student.stem.bias.clone(), student.inner.bias.clone()
    round_biases(student)
    assert torch.equal(student.stem.bias, shared)
    assert not torch.equal(student.inner.bias, norm)


@pytest.mark.parametrize("bits", ["w8a8", "w4a8", "w4a4"])
def test_the_deployed_file_computes_the_numbers_of_the_student(network, bits, tmp_path):
    onnx_files = pytest.importorskip("onnx_files")
    student = calibrated(network, SPEC, bits, target="onnxruntime")
    round_biases(student)
    paths = [
        hast.export_onnx(student, tmp_path / f"{i}.onnx", images=images)
        for i, images in enumerate((IMAGES, 10 * IMAGES))
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()  # nothing is left to find ranges for
    onnx_files.assert_near(student, paths[0], IMAGES, 1e-3, onnx_files.PLAIN, agreement=0.98)


def test_biases_become_what_an_integer_kernel_adds(network):
    generic, student = (
        calibrated(network, SPEC, "w4a4", target=t) for t in ("generic", "openvino")
    )
    for made in (generic, student):
        before = logits_of(made, IMAGES)
        round_biases(made)
        changed = (logits_of(made, IMAGES) - before).abs().mean() / before.std()
        assert (changed == 0) == (made is generic)
        assert changed < 0.1
    fc = student[7]
    step = (
        fc.activation_quantizers[0].scale
        * fc.parametrizations.weight[0]
        .qparams_of(fc.parametrizations.weight.original)
        .scale.flatten()
    )
    torch.testing.assert_close(fc.bias / step, (fc.bias / step).round(), rtol=0, atol=1e-3)


def test_layers_that_read_codes_still_have_a_range_in_the_report(network):
    student = calibrated(network, SPEC, "w8a8", target="onnxruntime")
    errors = {e.layer: e for e in measure_layer_errors(network, student, IMAGES)}
    assert not math.isnan(errors["3.conv1"].act_maximum)
    assert 20 < errors["3.conv1"].output_sqnr < 60  # of 8-bit activations and weights


@pytest.mark.parametrize("fold", [False, True])
def test_a_checkpoint_keeps_them_and_refuses_names_that_are_not_there(network, fold, tmp_path):
    student = calibrated(network, SPEC, "w4a8", target="onnxruntime")
    path = hast.save(student, tmp_path / "packed", fold_batch_norm=fold)
    loaded = hast.load(path, network=network)
    expected = fold_batch_norm(student, SPEC) if fold else student
    assert torch.equal(logits_of(loaded, IMAGES), logits_of(expected, IMAGES))
    assert spec_and_plan(loaded)[1].outputs == spec_and_plan(student)[1].outputs
    assert not [name for name in remove_quantizers(loaded).state_dict() if "quantizers" in name]

    card = json.loads((path / "config.json").read_text())
    card["quantization_config"]["outputs"]["5.conv9"] = []
    (path / "config.json").write_text(json.dumps(card))
    with refused("outputs names 5.conv9, which the network has not"):
        hast.load(path, network=network)
