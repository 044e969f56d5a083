import pytest
import torchvision
from conftest import refused, spec_of
from students import Net
from torch import nn

from hast.config.bit_width import BitWidth
from hast.config.layers import PlanConfig
from hast.networks.batch_norm import freeze
from hast.networks.coverage import layer_table
from hast.networks.plan import fixed_layers, forward_macs, plan_quantization

LAYERS = [
    "stem.0",
    "stages.0.body.0",
    "stages.0.body.3",
    "stages.1.body.0",
    "stages.1.body.3",
    "stages.1.shortcut.0",
    "classifier",
]


def plan(teacher, spec, allocation=None, **rules):
    config = PlanConfig.model_validate({"placement": "inputs"} | rules)
    return plan_quantization(teacher, spec, BitWidth(4, 3), config, allocation)


def test_every_layer_gets_the_runs_bits_in_running_order(teacher, spec):
    resolved = plan(teacher, spec)
    assert list(resolved.weights) == LAYERS
    assert set(resolved.weights.values()) == {4}
    image, *others = LAYERS
    assert resolved.activations[image] == 8
    assert {resolved.activations[name] for name in others} == {3}


def test_the_image_can_be_quantized_like_the_rest(teacher, spec):
    assert set(plan(teacher, spec, image_bits="width").activations.values()) == {3}


def test_weights_alone_can_be_quantized(teacher, spec):
    width = BitWidth.parse("w4a32")
    resolved = plan_quantization(teacher, spec, width, PlanConfig(first_last_bits=8))
    assert list(resolved.weights) == LAYERS
    assert resolved.activations == {}


def test_stronger_rules_win(teacher, spec):
    overrides = [
        {"match": "stages.1*", "weight_bits": 6},
        {"match": "stages.1.shortcut.0", "weight_bits": 7, "act_bits": 8},
    ]
    rules = {"first_last_bits": 8, "overrides": overrides, "skip": ["stages.0.body.3"]}
    resolved = plan(teacher, spec, {"stages.0.body.0": 5, "stem.0": 2}, **rules)
    kept = [name for name in LAYERS if name != "stages.0.body.3"]
    assert resolved.weights == dict(zip(kept, (8, 5, 6, 6, 7, 8), strict=True))
    assert resolved.activations["stages.1.shortcut.0"] == 8
    assert resolved.activations["stem.0"] == 8
    assert resolved.activations["stages.1.body.0"] == 3
    assert "stages.0.body.3" not in resolved.activations


def test_placement_relu_gives_activation_bits_to_relus(teacher, spec):
    resolved = plan(teacher, spec, placement="relu", overrides=[{"match": "stem.2", "act_bits": 8}])
    assert resolved.activations["stem.2"] == 8
    assert all("relu" in n or n.endswith(".2") for n in resolved.activations)
    assert set(resolved.weights.values()) == {4}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"skip": ["no.such*"]}, r"skip: 'no\.such\*' matches nothing"),
        ({"overrides": [{"match": "fc", "weight_bits": 8}]}, "overrides: 'fc' matches nothing"),
        ({"allocation": {"x": 4}}, "allocated layer x is not in DigitsResNet"),
    ],
)
def test_a_rule_that_matches_nothing_is_an_error(teacher, spec, rules, message):
    with refused(message):
        plan(teacher, spec, **rules)


def test_layers_that_never_run_are_left_alone(spec):
    network = Net(
        lambda net, x: net.used(x).flatten(1),
        used=nn.Conv2d(1, 10, 8), unused=nn.Conv2d(1, 2, 3),
    )  # fmt: skip
    assert list(plan(freeze(network), spec).weights) == ["used"]


def test_the_table_counts_parameters_size_and_work(teacher, spec):
    wide = [{"match": "stem.0", "weight_bits": 8}]
    table = layer_table(teacher, spec, plan(teacher, spec, overrides=wide, skip=["clas*"]))
    assert [row.layer for row in table] == LAYERS
    stem, last = table[0], table[-1]
    assert (stem.shape, stem.parameters, stem.weight_bits) == ("8x1x3x3", 72, 8)
    assert (last.weight_bits, last.act_bits) == (32, None)
    assert sum(row.size_share for row in table) == pytest.approx(1)
    assert sum(row.mac_share for row in table) == pytest.approx(1)
    macs = {"stem.0": 64 * 72, "stages.0": 2 * 64 * 576, "stages.1": 16 * (1152 + 2304 + 128)}
    assert stem.mac_share == pytest.approx(64 * 72 / (sum(macs.values()) + 160))


def test_multiply_adds_of_resnet18_are_the_known_number():
    network = freeze(torchvision.models.resnet18(weights=None))
    assert forward_macs(network, spec_of((3, 224, 224), 1000)) == 1_814_073_344


def test_fixed_layers_are_those_with_bits_of_their_own():
    overrides = [{"match": "b", "weight_bits": 4}, {"match": "c", "act_bits": 4}]
    config = PlanConfig(first_last_bits=8, overrides=overrides, skip=["d"])
    assert fixed_layers(["a", "b", "c", "d", "e", "f"], config) == {"a", "b", "d", "f"}
