"""Forwards as people write them, from the teacher to a student that is stored and exported."""

import pytest
import torch
import torch.nn.functional as F
from conftest import refused, spec_of
from students import Net, warm_network
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

import hast
from hast.config.teacher import TeacherConfig
from hast.errors import HastWarning
from hast.export.parity import logits_of
from hast.files.teachers import load_teacher, save_teacher
from hast.networks.batch_norm import batch_norms
from hast.networks.classifier import count_classes
from hast.networks.given import plain_copy
from hast.stages.teacher import _check_it_can_be_rebuilt

SPEC = spec_of((3, 16, 16), 5)
RANGES = {"batches": 1, "batch_size": 8}


def network(compute, **more):
    torch.manual_seed(0)
    parts = {"a": nn.Conv2d(3, 8, 3, 2, 1), "norm": nn.BatchNorm2d(8), "b": nn.Conv2d(8, 4, 1)}
    return warm_network(Net(compute, **(parts | {"fc": nn.Linear(256, 5)} | more)), SPEC)


def maps(net, x):
    return net.b(F.relu(net.norm(net.a(x))))


def plain(net, x):
    return net.fc(maps(net, x).flatten(1))


def viewed(net, x):
    return net.fc(maps(net, x).view(x.size(0), -1))


def standardized(net, x):
    return plain(net, (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True))


def squeezed(net, x):
    return net.fc(maps(net, x).mean((2, 3)).squeeze())


def with_time(net, x):
    return plain(net, net.c(x.unsqueeze(2))[:, :, 0])


def test_probabilities_are_not_taken_for_logits_in_silence():
    with pytest.warns(HastWarning, match="answers probabilities, .* leave its softmax out"):
        count_classes(network(lambda net, x: plain(net, x).softmax(1)), SPEC.input_shape)


class AnyArguments(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside = network(plain)

    def forward(self, *args, **kwargs):
        return self.inside(*args, **kwargs)


class Thawing(FrozenBatchNorm2d):
    """As timm's, with the activation inside; and with parameters, as some write it."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(super().forward(x))


def frozen(kind):
    net = network(plain)
    norm = kind(8)
    norm.load_state_dict(net.norm.state_dict(), strict=False)
    net.norm = norm
    return net.eval()


ODD = {
    "view of a feature map": lambda: network(viewed),
    "standardizes each image": lambda: network(standardized),
    "squeezes": lambda: network(squeezed, fc=nn.Linear(4, 5)),
    "a stem over time": lambda: network(with_time, c=nn.Conv3d(3, 3, (1, 3, 3), padding=(0, 1, 1))),
    "takes anything": AnyArguments,
    "frozen BatchNorm": lambda: frozen(FrozenBatchNorm2d),
    "frozen BatchNorm with an activation": lambda: frozen(Thawing),
    "InstanceNorm that tracks": lambda: frozen(
        lambda n: nn.InstanceNorm2d(n, affine=True, track_running_stats=True)
    ),
    "synchronized BatchNorm": lambda: nn.SyncBatchNorm.convert_sync_batchnorm(network(plain)),
}


@pytest.mark.parametrize("name", ODD)
def test_a_student_is_made_stored_and_exported(tmp_path, name):
    pytest.importorskip("onnx")
    teacher = ODD[name]()
    bank = hast.synthesize(teacher, SPEC, samples=8, batch_size=8, steps=2, progress=False)
    student = hast.quantize(
        teacher, SPEC, bank, weight_bits=8, act_bits=8, steps=1, batch_size=4, calibration=RANGES,
        layers={"target": "onnxruntime"}, progress=False,
    )  # fmt: skip
    hast.save(student, tmp_path / "packed")
    loaded = hast.load(tmp_path / "packed", network=teacher)
    images = bank.images[:4]
    assert torch.equal(loaded(images), student(images))
    torch.testing.assert_close(student(images), teacher(images), atol=0.3, rtol=0.3)
    file = hast.export_onnx(student, tmp_path / "student.onnx", images=bank.images)
    assert file.is_file()


@pytest.mark.parametrize("kind", [FrozenBatchNorm2d, Thawing], ids=["torchvision's", "timm's"])
def test_frozen_batch_norm_is_batch_norm_again(kind):
    given = frozen(kind)
    thawed = plain_copy(given)
    images = torch.randn(4, *SPEC.input_shape)
    torch.testing.assert_close(logits_of(thawed, images), logits_of(given, images))
    (norm,) = batch_norms(thawed)
    assert torch.equal(norm.running_var, given.norm.running_var)


def test_what_looks_like_batch_norm_and_computes_something_else_stays():
    class Halved(FrozenBatchNorm2d):
        def forward(self, x):
            return super().forward(x) / 2

    with refused("has no BatchNorm layer with running statistics"):
        hast.synthesize(frozen(Halved), SPEC, samples=4, steps=1, progress=False)


def without_gradient(net, x):
    with torch.no_grad():
        return plain(net, x)


@pytest.mark.parametrize(
    ("compute", "more", "message"),
    [
        (without_gradient, {}, "no gradient comes back from its logits to the image; take no_grad"),
        (lambda net, x: plain(net, x.detach()), {}, "no gradient comes back from its logits"),
        (plain, {"fc": nn.Linear(256, 1)}, "answers one logit an image, but classes are at least"),
        (lambda net, x: (plain(net, x), x), {}, "must answer one tensor of logits, got a tuple"),
        (lambda net, x: {"out": plain(net, x)}, {}, "must answer one tensor of logits, got a dict"),
        (lambda net, x: plain(net, x)[:, 0], {}, r"must answer logits of shape .* got \(2,\)"),
        (lambda net, x: plain(net, x).sum(0, keepdim=True), {}, r"logits of shape .*\(1, 5\)"),
    ],
    ids=["no_grad", "detach", "one logit", "tuple", "dict", "a row", "a sum"],
)
def test_what_cannot_be_a_teacher_is_told_in_one_line(compute, more, message):
    with refused(message):
        hast.synthesize(network(compute, **more), SPEC, samples=4, steps=1, progress=False)


def test_fine_tuning_needs_a_gradient():
    bank = hast.synthesize(network(plain), SPEC, samples=8, batch_size=8, steps=1, progress=False)
    with refused("no gradient comes back from its logits to the image"):
        hast.quantize(
            network(without_gradient), SPEC, bank, steps=1, calibration=RANGES, progress=False
        )


def test_calibration_needs_no_gradient():
    bank = hast.synthesize(network(plain), SPEC, samples=8, batch_size=8, steps=1, progress=False)
    student = hast.calibrate(
        network(without_gradient), SPEC, bank, calibration=RANGES, progress=False
    )
    torch.testing.assert_close(
        student(bank.images), network(plain)(bank.images), atol=0.3, rtol=0.3
    )


@pytest.mark.parametrize("of_pixels", [torch.log, lambda x: torch.arange(256.0)[(x * 255).long()]])
def test_a_network_is_looked_at_with_what_may_be_pixels(of_pixels):
    takes_pixels = network(lambda net, x: plain(net, of_pixels(x.clamp(1e-6, 1))))
    takes_pixels.compute = lambda net, x: plain(net, of_pixels(x))
    assert count_classes(takes_pixels, SPEC.input_shape) == 5


@pytest.mark.parametrize(
    "factory", ["normalized", "normalized_by_hook", "parallel", "frozen", "half"]
)
@pytest.mark.filterwarnings("ignore::hast.errors.HastWarning")
def test_a_source_may_return_any_of_them_and_is_rebuilt(tmp_path, factory):
    source, known = f"python:odd_sources:{factory}", SPEC.model_dump()
    network, spec = hast.load_classifier(source, spec=known)
    _check_it_can_be_rebuilt(network, spec, TeacherConfig(source=source, spec=known))
    save_teacher(tmp_path / "teacher", network, spec, source, {})
    again = load_teacher(tmp_path / "teacher", torch.device("cpu")).network
    images = torch.rand(4, *spec.input_shape)
    torch.testing.assert_close(again(images), network.eval()(images))
    bank = hast.synthesize(network, spec, samples=4, batch_size=4, steps=1, progress=False)
    student = hast.calibrate(network, spec, bank, calibration=RANGES, progress=False)
    hast.save(student, tmp_path / "packed")
    loaded = hast.load(tmp_path / "packed", trust_source=True)
    assert torch.equal(loaded(images), student(images))


def test_lazy_modules_must_have_seen_an_image():
    lazy = Net(plain, a=nn.LazyConv2d(8, 3), fc=nn.LazyLinear(5))
    with refused(
        "Net is lazy and has not seen an image, so it cannot be worked with; call it once"
    ):
        hast.synthesize(lazy, SPEC, samples=4, steps=1, progress=False)
