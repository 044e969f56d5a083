import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import refused, spec_of
from students import SHARING, Net, Sharing, count_hooks, is_same, observed, prepared
from torch import nn
from torch.nn.utils import parametrizations

from hast.math.quantization import choose_qparams, fake_quantize
from hast.networks.batch_norm import freeze
from hast.networks.quantizers import (
    ActivationQuantizer,
    LearnedActivationQuantizer,
    WeightQuantizer,
)
from hast.networks.size import packed_size
from hast.networks.student import remove_quantizers, set_mode, wide_layers_in_fp32

WEIGHTED = nn.Conv2d | nn.Linear


def calibrated(teacher, spec, bits="w4a4", **rules):
    torch.manual_seed(1)
    return observed(teacher, spec, torch.randn(48, *spec.input_shape), bits, **rules)


def by_name(net, x):
    return net.fc(input=net.bn(net.conv(x)).mean((2, 3)))


def small(compute, change=lambda conv: conv) -> Net:
    """A network of three layers with `change` applied to its convolution."""
    return Net(
        compute, conv=change(nn.Conv2d(1, 4, 3)), bn=nn.BatchNorm2d(4), fc=nn.Linear(4, 10)
    )  # fmt: skip


def activation_quantizers(network):
    return {n: m for n, m in network.named_modules() if isinstance(m, ActivationQuantizer)}


def test_the_class_and_the_teacher_stay_as_they_are(teacher, spec):
    before = copy.deepcopy(teacher.state_dict())
    student = calibrated(teacher, spec)
    assert type(student) is type(teacher)
    assert is_same(teacher.state_dict(), before)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in student.parameters())


def test_the_first_layer_computes_with_codes_of_input_and_weight(teacher, spec):
    student = calibrated(teacher, spec, "w3a5")
    conv = student.stem[0]
    original = teacher.stem[0].weight
    low, high = original.amin((1, 2, 3), keepdim=True), original.amax((1, 2, 3), keepdim=True)
    weight = fake_quantize(original, choose_qparams(low, high, bits=3))
    quantizer = conv.activation_quantizers[0]
    x = torch.randn(4, 1, 8, 8)
    image = fake_quantize(x, choose_qparams(quantizer.minimum, quantizer.maximum, bits=8))

    assert torch.equal(conv.weight, weight)
    assert torch.equal(conv(x), F.conv2d(image, weight, padding=1))
    assert all(len(row.unique()) <= 8 for row in conv.weight.flatten(1))


def test_weights_follow_their_parameter_and_pass_it_the_whole_gradient(teacher, spec):
    student = calibrated(teacher, spec)
    conv = student.stem[0]
    original = conv.parametrizations.weight.original
    conv.weight.sum().backward()
    assert torch.equal(original.grad, torch.ones_like(original))
    with torch.no_grad():
        original.mul_(2)
    assert torch.allclose(conv.weight, 2 * prepared(teacher, spec).stem[0].weight)


@pytest.mark.parametrize(("placement", "kinds"), [("inputs", WEIGHTED), ("relu", nn.ReLU)])
def test_a_placement_quantizes_every_layer_of_its_kinds(teacher, spec, placement, kinds):
    student = calibrated(teacher, spec, placement=placement)
    layers = [m for m in teacher.modules() if isinstance(m, kinds)]
    assert len(activation_quantizers(student)) == len(layers)


def test_a_shared_relu_gets_a_range_for_each_call():
    spec = spec_of((3, 32, 32), 5)
    network = freeze(torchvision.models.resnet18(weights=None, num_classes=5))
    student = calibrated(network, spec, placement="relu")
    sites = student.layer1[0].relu.activation_quantizers
    assert len(sites) == 2
    assert sites[0].maximum != sites[1].maximum
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(student(x), student(x))  # calls are counted anew in each pass


def test_a_network_with_functional_relus_and_no_relu_module_is_refused_for_placement_relu(spec):
    network = freeze(small(lambda net, x: net.fc(F.relu(net.bn(net.conv(x))).mean((2, 3)))))
    with refused("use placement 'inputs'"):
        prepared(network, spec, placement="relu")
    assert calibrated(network, spec)(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_an_uncalibrated_student_may_not_quantize(teacher, spec):
    student = prepared(teacher, spec)
    with refused("calibrate the student first"):
        set_mode(student, "quantize")


def test_ranges_start_from_the_first_batch_then_average():
    quantizer = ActivationQuantizer(bits=4, momentum=0.75)
    quantizer.mode = "observe"
    quantizer(torch.tensor([-1.0, 3.0]))
    assert (quantizer.minimum.item(), quantizer.maximum.item()) == (-1.0, 3.0)
    quantizer(torch.tensor([-5.0, 7.0]))
    assert (quantizer.minimum.item(), quantizer.maximum.item()) == (-2.0, 4.0)
    quantizer.freeze_range()
    quantizer(torch.tensor([-100.0, 100.0]))
    assert (quantizer.minimum.item(), quantizer.maximum.item()) == (-2.0, 4.0)
    assert (quantizer.scale.item(), quantizer.zero_point.item()) == (pytest.approx(0.4), 5)


def test_a_deep_copy_uses_its_own_quantizers(teacher, spec):
    student = calibrated(teacher, spec)
    twin = copy.deepcopy(student)
    x = torch.randn(4, 1, 8, 8)
    expected = student(x)
    assert torch.equal(twin(x), expected)
    for quantizer in activation_quantizers(twin).values():
        quantizer.scale.mul_(10)
    assert torch.equal(student(x), expected)
    assert not torch.equal(twin(x), expected)


def test_grouped_convolutions_have_a_scale_for_each_output_channel():
    conv = nn.Conv2d(8, 8, 3, groups=8)
    weight = conv.weight.detach() * torch.logspace(-3, 3, 8).view(-1, 1, 1, 1)
    error = (WeightQuantizer(4)(weight) - weight).abs().amax((1, 2, 3))
    assert (error <= (weight.amax((1, 2, 3)) - weight.amin((1, 2, 3))) / 15).all()


def test_learned_scales_start_better_than_min_and_max_and_take_no_more_room(teacher, spec):
    learned = calibrated(teacher, spec, "w3a3", quantizer="learned")
    plain = calibrated(teacher, spec, "w3a3")
    assert packed_size(learned) == packed_size(plain)
    for layer in (n for n, m in teacher.named_modules() if isinstance(m, WEIGHTED)):
        original = teacher.get_submodule(layer).weight
        errors = [(s.get_submodule(layer).weight - original).norm() for s in (learned, plain)]
        assert errors[0] <= errors[1]
        assert all(len(row.unique()) <= 8 for row in learned.get_submodule(layer).weight.flatten(1))


@pytest.mark.parametrize("quantizer", ["minmax", "learned"])
def test_a_student_reloads_copies_and_goes_back(teacher, spec, quantizer):
    student = calibrated(teacher, spec, quantizer=quantizer)
    x = torch.randn(4, 1, 8, 8)
    expected = student(x)
    other = prepared(teacher, spec, quantizer=quantizer)
    other.load_state_dict(student.state_dict(), strict=True)
    assert torch.equal(other(x), expected)
    # Quantizers come off a copy, and the original keeps its own.
    twin = copy.deepcopy(student)
    assert torch.equal(twin(x), expected)
    plain = remove_quantizers(twin)
    assert torch.equal(plain(x), teacher(x))
    assert is_same(plain.state_dict(), teacher.state_dict())
    assert count_hooks(plain) == count_hooks(teacher)
    assert type(plain.stem[0]) is nn.Conv2d
    assert torch.equal(student(x), expected)


def test_gradients_reach_every_learned_scale(teacher, spec):
    student = calibrated(teacher, spec, quantizer="learned")
    student(torch.randn(4, 1, 8, 8)).square().sum().backward()
    scales = {n: p for n, p in student.named_parameters() if n.endswith("log_scale")}
    assert len(scales) == 2 * 7
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in scales.values())


def test_packed_size_counts_bits():
    layer = freeze(nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 5, 3)))
    assert packed_size(layer) == 4 * (4 * 2 + 5 * 2 * 9 + 5)
    student = prepared(layer, spec_of((2, 8, 8), 5), "w3a4")
    codes = -(-90 * 3 // 8)
    zero_points = -(-5 * 3 // 8)
    assert packed_size(student) == codes + zero_points + 5 * 4 + 5 + 4 * (4 * 2 + 5)


def test_an_input_that_is_given_by_name_is_quantized_too(spec):
    student = calibrated(freeze(small(by_name)), spec)
    quantizer = student.fc.activation_quantizers[0]
    assert quantizer.minimum < quantizer.maximum
    assert student(torch.randn(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "normalize",
    [nn.utils.weight_norm, parametrizations.weight_norm, parametrizations.spectral_norm],
)
def test_a_layer_that_computes_its_weight_is_named(spec, normalize):
    network = freeze(small(by_name, normalize))
    with refused("conv computes its weight itself"):
        prepared(network, spec)
    assert calibrated(network, spec, skip=["conv"])(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_more_calls_than_planned_are_a_clear_error(spec):
    def compute(net, x):
        for _ in range(net.rounds):
            x = net.bn(net.conv(x))
        return net.fc(x.mean((2, 3)))

    parts = {"conv": nn.Conv2d(1, 1, 3, padding=1), "bn": nn.BatchNorm2d(1), "fc": nn.Linear(1, 10)}
    student = calibrated(freeze(Net(compute, rounds=2, **parts)), spec)
    student.rounds = 3
    with refused(r"called more often \(3\) than .* \(2\)"):
        student(torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize("shape", [(64, 16, 32, 32), (64, 64, 8, 8), (4, 96, 56, 56), (1, 3, 5, 7)])
def test_every_channel_and_every_part_of_a_map_decides_where_a_learned_range_starts(shape):
    """An outlier in one channel, or in one cell of a 4 x 4 grid, is among what is looked at."""
    *_, channels, height, width = shape
    noise = torch.rand(shape)

    def seen(index) -> bool:
        x = noise.clone()
        x[index] += 100
        quantizer = LearnedActivationQuantizer(4, 0.9)
        quantizer.mode = "observe"
        quantizer(x)
        (values,) = quantizer._seen
        return bool((values > 50).any())

    assert all(seen((slice(None), channel)) for channel in range(channels))
    for row in range(4):
        for column in range(4):
            rows = slice(row * height // 4, max(1, (row + 1) * height // 4))
            columns = slice(column * width // 4, (column + 1) * width // 4)
            assert seen((..., rows, columns)), (row, column)


def test_what_is_looked_at_depends_neither_on_layout_nor_on_global_random_numbers():
    x = torch.randn(16, 8, 16, 16)
    starts = []
    for layout in (torch.contiguous_format, torch.channels_last):
        quantizer = LearnedActivationQuantizer(4, 0.9)
        quantizer.mode = "observe"
        torch.rand(3)
        quantizer(x.to(memory_format=layout))
        quantizer.freeze_range()
        starts.append(quantizer.scale.item())
    assert starts[0] == starts[1]


@pytest.mark.parametrize("kind", [ActivationQuantizer, LearnedActivationQuantizer])
def test_a_decided_scale_is_the_one_that_is_used(kind):
    quantizer = kind(4, 0.9)
    x = torch.linspace(-1, 2, 50)
    qparams = choose_qparams(torch.tensor(-1.0), torch.tensor(2.0), bits=4)
    quantizer.fix(qparams)
    assert quantizer.scale.item() == pytest.approx(qparams.scale.item())
    assert torch.allclose(quantizer(x), fake_quantize(x, qparams))


def test_layers_that_share_a_weight_share_its_quantizer():
    student = calibrated(freeze(Sharing()), SHARING, quantizer="learned")
    a, b = student.a.parametrizations.weight, student.b.parametrizations.weight
    assert a[0] is b[0]
    assert a.original is b.original
    with torch.no_grad():
        a[0].log_scale += 0.3
    assert torch.equal(student.a.weight, student.b.weight)


@pytest.mark.parametrize(
    "rule", [{"skip": ["b"]}, {"overrides": [{"match": "b", "weight_bits": 8}]}]
)
def test_a_shared_weight_with_two_widths_is_refused(rule):
    with refused(r"a and b share one weight.*the rules give 4 and"):
        prepared(freeze(Sharing()), SHARING, **rule)


@pytest.mark.parametrize(("groups", "axis", "channels"), [(1, 1, 16), (2, 1, 8), (8, 0, 8)])
@pytest.mark.parametrize("quantizer", ["minmax", "learned"])
def test_a_transposed_convolution_has_a_scale_for_each_output(groups, axis, channels, quantizer):
    student = calibrated(freeze(Sharing(groups)), SHARING, "w3a4", quantizer=quantizer)
    scale = student.up.parametrizations.weight[0].qparams_of(student.up.weight).scale
    assert [d for d, size in enumerate(scale.shape) if size > 1] == [axis]
    assert scale.numel() == channels
    assert all(len(row.unique()) <= 8 for row in student.up.weight.movedim(axis, 0).flatten(1))


@pytest.mark.parametrize("placement", ["inputs", "relu"])
def test_codes_of_eight_bits_reach_their_layers_whole_under_bf16(placement):
    """bf16 has 8 significant bits, so that a value of 8 bits would move by up to half a step."""
    network = Net(
        lambda net, x: net.head(net.last(net.second(net.relu(net.first(x)))).mean((2, 3))),
        first=nn.Conv2d(3, 8, 3), second=nn.Conv2d(8, 8, 3),
        relu=nn.ReLU(), last=nn.ReLU(), head=nn.Linear(8, 10),
    )  # fmt: skip
    student = calibrated(freeze(network), SHARING, "w8a8", placement=placement)
    x = 3 * torch.randn(16, 3, 8, 8)
    seen = {}

    def look(name, scale):
        def hook(_module, args, _output):
            steps = args[0].double() / scale.item()
            seen[name] = (steps - steps.round()).abs().max().item()

        return hook

    for name, layer in student.named_modules():
        if placement == "inputs" and hasattr(layer, "activation_quantizers"):
            layer.register_forward_hook(look(name, layer.activation_quantizers[0].scale))
        elif name == "second":  # reads what the ReLU before it made
            layer.register_forward_hook(look(name, student.relu.activation_quantizers[0].scale))

    def distance() -> float:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            answers = student(x).float()
        return (answers - expected).abs().mean().item() / expected.std().item()

    with torch.no_grad():
        expected = student(x)
    unmended = distance()
    with wide_layers_in_fp32(student):
        mended = distance()
        assert seen
        assert max(seen.values()) < 1e-3  # of a step
    assert mended < unmended
    assert "forward" not in vars(student.head)
