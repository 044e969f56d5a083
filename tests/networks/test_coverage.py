"""Which share of a network is low-bit: known by hand for small networks, and said aloud."""

import json

import pytest
import torch
import torchvision
from banks import bank_for
from conftest import refused, spec_of
from students import Net, count_hooks, own_parameters
from torch import nn
from torch.nn import functional as F

import hast
from hast.cli.network import inspect
from hast.config.bit_width import BitWidth
from hast.config.layers import PlanConfig
from hast.config.spec import ModelSpec
from hast.errors import HastWarning
from hast.files.checkpoint_schema import describe_plan, plan_of
from hast.networks.batch_norm import freeze
from hast.networks.coverage import Coverage, layer_table, plan_coverage, warn_of_full_precision
from hast.networks.plan import QuantizationPlan, forward_macs, plan_quantization
from hast.networks.provenance import spec_and_plan
from hast.networks.sources import build_network
from hast.networks.student import prepare_student, remove_quantizers

W4A4 = BitWidth(4, 4)
SPEC = spec_of((3, 8, 8))


def planned(network: nn.Module, spec: ModelSpec = SPEC, **rules) -> QuantizationPlan:
    config = PlanConfig.model_validate({"placement": "inputs"} | rules)
    return plan_quantization(freeze(network), spec, W4A4, config)


def covered(network: nn.Module, spec: ModelSpec = SPEC, **rules) -> Coverage:
    return plan_coverage(network, spec, planned(network, spec, **rules))


def test_all_modules_are_all_of_it(teacher, spec):
    found = covered(teacher, spec)
    assert (found.weights, found.multiply_adds) == (1, 1)
    assert found.full_precision == found.skipped == ()


def test_a_transposed_convolution_counts_as_it_multiplies():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ConvTranspose2d(4, 6, 2, stride=2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10),
    )  # fmt: skip
    found = covered(network)
    assert (found.weights, found.multiply_adds) == (1, 1)
    # Every input pixel meets the whole kernel once.
    assert forward_macs(network, SPEC) == 64 * 108 + 64 * (4 * 6 * 4) + 60


def test_functions_on_own_parameters_are_named_and_counted():
    found = covered(own_parameters())
    assert found.weights == pytest.approx(108 / (108 + 288 + 80))
    assert found.multiply_adds == pytest.approx(64 * 108 / (64 * 108 + 64 * 288 + 80))
    assert found.full_precision == ("kernel", "head")
    network = own_parameters()
    rows = layer_table(network, SPEC, planned(network))
    assert [(r.layer, r.weight_bits, r.act_bits, r.low_bit) for r in rows] == [
        ("stem", 4, 8, 1),
        ("kernel", 32, None, 0),
        ("head", 32, None, 0),
    ]
    assert rows[1].shape == "8x4x3x3"
    assert sum(row.size_share for row in rows) == pytest.approx(1)
    assert sum(row.mac_share for row in rows) == pytest.approx(1)


def test_what_skip_names_is_listed_and_not_warned_about():
    found = covered(own_parameters(), skip=["kernel", "head"])
    assert found.skipped == ("kernel", "head")
    assert found.full_precision == ()
    assert found.weights < 0.3
    assert (found.weights_wanted, found.multiply_adds_wanted) == (1, 1)
    warn_of_full_precision(found, W4A4)


def test_a_skipped_relu_excuses_the_layers_behind_it():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 10),
    )  # fmt: skip
    found = covered(network, placement="relu", skip=["1"])
    assert found.skipped == ("1",)
    assert found.full_precision == ("0",)  # its input is the image
    assert found.multiply_adds == pytest.approx(640 / (36 * 108 + 16 * 144 + 640))


def attention() -> Net:
    def compute(net, x):
        tokens = net.stem(x).flatten(2).transpose(1, 2)
        return net.head(net.attend(tokens, tokens, tokens, need_weights=False)[0].mean(1))

    return Net(
        compute,
        stem=nn.Conv2d(3, 8, 4, 4),
        attend=nn.MultiheadAttention(8, 2, batch_first=True),
        head=nn.Linear(8, 10),
    )


def test_projections_and_scores_of_attention_are_full_precision():
    found = covered(attention())
    assert found.full_precision == ("attend.in_proj_weight", "attend", "attend.out_proj.weight")
    modules, projections = 8 * 3 * 16 + 80, 24 * 8 + 64
    assert found.weights == pytest.approx(modules / (modules + projections))
    scores = 2 * 4 * 4 * 8  # of two products, 4 tokens each
    work = 4 * 8 * 3 * 16 + 80
    assert found.multiply_adds == pytest.approx(work / (work + 4 * projections + scores))


def test_the_fast_path_is_as_it_was_and_no_hook_is_left():
    before = torch.backends.mha.get_fastpath_enabled()
    network = freeze(attention())
    hooks = count_hooks(network)
    covered(network)
    assert torch.backends.mha.get_fastpath_enabled() == before
    assert count_hooks(network) == hooks


def test_a_recurrent_layer_is_seen():
    network = Net(
        lambda net, x: net.head(net.memory(x.flatten(2))[0][:, -1]),
        memory=nn.LSTM(64, 5, batch_first=True),
        head=nn.Linear(5, 10),
    )
    found = covered(network)
    assert found.full_precision == ("memory.weight_ih_l0", "memory.weight_hh_l0")
    assert found.weights == pytest.approx(50 / (50 + 20 * 64 + 20 * 5))
    assert torch.backends.mkldnn.enabled or not torch.backends.mkldnn.is_available()


@pytest.mark.parametrize("activation", [nn.Hardswish, nn.SiLU, nn.GELU, nn.PReLU])
def test_layers_behind_other_activations_do_not_count_under_relu(activation):
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), activation(), nn.Conv2d(4, 4, 3),
        nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 10),
    )  # fmt: skip
    found = covered(network, placement="relu")
    assert found.weights == 1
    assert found.full_precision == ("0", "4")
    behind = 16 * 144 + 40
    assert found.multiply_adds == pytest.approx(behind / (behind + 36 * 108 + 4 * 144))
    assert covered(network).multiply_adds == 1


def test_linear_bottlenecks_do_not_count_under_relu():
    spec = SPEC.model_copy(update={"input_shape": (3, 64, 64)})
    network = torchvision.models.mobilenet_v2(num_classes=10)
    found = covered(network, spec, placement="relu")
    assert found.weights == 1
    assert found.multiply_adds == pytest.approx(0.463, abs=0.001)
    expansions = {f"features.{block}.conv.0.0" for block in range(2, 18)}
    ends = {"features.0.0", "features.18.0", "classifier.1"}
    assert set(found.full_precision) == ends | expansions
    assert covered(network, spec).multiply_adds == 1


def _halve(x):
    x[:, :1].mul_(0.5)
    return x


@pytest.mark.parametrize(
    ("name", "between", "counts"),
    [
        ("a view", lambda x: x.transpose(2, 3)[:, :, 1:].contiguous(), True),
        ("zeros around", lambda x: F.pad(x, (1, 1)), True),
        ("ones around", lambda x: F.pad(x, (1, 1), value=1.0), False),
        ("both quantized", lambda x: torch.cat([x[:, :2], x[:, 2:]], 1), True),
        ("one quantized", lambda x: torch.cat([x[:, :2], x[:, 2:].sin()], 1), False),
        ("a mean", lambda x: F.avg_pool2d(x, 2), False),
        ("a sum", lambda x: x + x, False),
        ("in place", lambda x: x.mul_(2.0), False),
        ("in place through a view", _halve, False),
    ],
)
def test_what_leaves_values_on_the_grid(name, between, counts):
    network = Net(
        lambda net, x: net.last(between(net.relu(net.first(x)))).mean((2, 3)),
        first=nn.Conv2d(3, 4, 1),
        relu=nn.ReLU(),
        last=nn.Conv2d(4, 10, 1),
    )
    full = covered(network, placement="relu").full_precision
    assert full == (("first",) if counts else ("first", "last")), name


def test_others_that_use_an_activation_do_not_see_its_quantizer():
    network = Net(
        lambda net, x: net.first(x).mean((2, 3)) + F.linear(x.mean((2, 3)), net.own),
        first=nn.Conv2d(3, 10, 1),
        own=nn.Parameter(torch.randn(10, 3)),
    )
    assert covered(network).full_precision == ("own",)


def test_a_shared_weight_counts_once():
    network = Net(
        lambda net, x: net.last(net.two(net.one(x.mean((2, 3))))),
        one=nn.Linear(3, 3, bias=False),
        two=nn.Linear(3, 3, bias=False),
        last=nn.Linear(3, 10),
    )
    network.two.weight = network.one.weight
    found = covered(network, skip=["last"])
    assert found.weights == pytest.approx(9 / (9 + 30))
    assert found.multiply_adds == pytest.approx(18 / (18 + 30))


def test_a_weight_that_is_also_used_without_its_layer_is_not_low_bit_there():
    network = Net(
        lambda net, x: F.linear(net.one(x.mean((2, 3))), net.table.weight),
        one=nn.Linear(3, 3, bias=False),
        table=nn.Embedding(10, 3),
    )
    found = covered(network)
    assert found.full_precision == ("table.weight",)
    assert found.weights == pytest.approx(9 / 39)


def test_a_weight_that_is_computed_from_a_parameter_is_that_parameters():
    class Standardized(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(x, (self.weight - self.weight.mean()) / self.weight.std(), self.bias)

    network = nn.Sequential(Standardized(3, 10, 8), nn.Flatten())
    assert covered(network).multiply_adds == 1


def test_the_papers_teacher_is_covered_by_the_papers_placement():
    pytest.importorskip("pytorchcv", reason="pytorchcv is an optional extra")
    network = build_network("pytorchcv:resnet20_cifar10", {}).network
    spec = SPEC.model_copy(update={"input_shape": (3, 32, 32)})
    found = covered(network, spec, placement="relu")
    assert found.weights == 1
    assert found.multiply_adds == pytest.approx(0.989, abs=0.001)


def test_the_warning_is_one_line_with_shares_names_and_a_way_out():
    found = Coverage(
        weights=0.18, multiply_adds=0.05, weights_wanted=0.2, multiply_adds_wanted=0.5,
        full_precision=tuple("abcdefg"), skipped=("x",),
    )  # fmt: skip
    with pytest.warns(HastWarning) as caught:
        warn_of_full_precision(found, W4A4)
    (warning,) = caught
    assert str(warning.message) == (
        "w4a4 covers 20.0% of the weights and 50.0% of the multiply-adds beside what `skip` names;"
        " not low-bit: a, b, c, d, e and 2 more. Use placement 'inputs', make them"
        " nn.Conv or nn.Linear modules, or name them in `skip`"
    )


def test_quantize_warns_once_and_the_student_knows():
    teacher = freeze(nn.Sequential(nn.BatchNorm2d(3), own_parameters()))
    bank = bank_for(teacher, SPEC, 8)
    with pytest.warns(HastWarning, match=r"22\.7% of .* 1\.kernel, 1\.head\.") as caught:
        student = hast.quantize(
            teacher, SPEC, bank, steps=1, batch_size=4, progress=False,
            alignment_modules=["1.stem"],
        )  # fmt: skip
    assert [w.filename for w in caught if w.category is HastWarning] == [__file__]
    found = hast.coverage(student)
    assert found == covered(teacher)
    with refused("Sequential is no student"):
        hast.coverage(teacher)


def test_a_checkpoint_keeps_what_was_skipped(tmp_path):
    network = freeze(own_parameters())
    skip = ["kernel", "head"]
    plan = planned(network, skip=skip)
    student = prepare_student(network, SPEC, plan)
    plan = spec_and_plan(student)[1]
    again = plan_of(network, describe_plan(student, plan))
    assert again == plan
    found = plan_coverage(remove_quantizers(student), SPEC, again)
    assert found == covered(network, skip=skip)


def test_inspect_shows_both_shares(capsys):
    arguments = ["python:students:own_parameters", "3x8x8"]
    with pytest.warns(HastWarning, match="not low-bit: kernel, head"):
        inspect(*arguments, align=["stem"])
    text = capsys.readouterr().out
    assert "22.7% of the weights and 27.2% of the multiply-adds are low-bit." in text
    assert "head" in text
    with pytest.warns(HastWarning, match="not low-bit: kernel, head"):
        inspect(*arguments, align=["stem"], as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["coverage"]["full_precision"] == ["kernel", "head"]
    assert [layer["low_bit"] for layer in found["layers"]] == [1, 0, 0]
