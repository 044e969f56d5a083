"""Teachers as users have them in memory."""

import threading
import warnings

import pytest
import torch
from conftest import refused, spec_of
from students import Net, calibrated, warm_network
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations, prune
from torchvision.ops import FrozenBatchNorm2d

import hast
from hast.errors import HastWarning
from hast.files.weights import load_state
from hast.networks.fingerprint import fingerprint
from hast.networks.given import plain_copy
from hast.networks.provenance import provenance_of, remember

SPEC = spec_of((3, 16, 16), 5)
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def network():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    return warm_network(
        Net(
            lambda net, x: net.fc(net.body(net.stem(x)).mean((2, 3))),
            stem=nn.Conv2d(3, 4, 3), body=body, fc=nn.Linear(4, 5),
        ),
        SPEC,
    )  # fmt: skip


def compiled(module, *, ran=False):
    module = torch.compile(module, backend="eager")
    if ran:
        with torch.no_grad():
            module(IMAGES)
    return module


def inside(wrap):
    net = network()
    net.body = wrap(net.body)
    return net


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda: nn.DataParallel(network()),
        lambda: compiled(network()),
        lambda: compiled(network(), ran=True),
        lambda: nn.DataParallel(compiled(network())),
        lambda: torch.optim.swa_utils.AveragedModel(network()),
        lambda: inside(nn.DataParallel),
        lambda: inside(lambda body: compiled(nn.DataParallel(body))),
        lambda: inside(checkpoint_wrapper),
        lambda: network().train(),
        lambda: network().to(memory_format=torch.channels_last),
        lambda: network().requires_grad_(False),
    ],
    ids=[
        "parallel", "compiled", "compiled, ran", "both", "averaged", "a part parallel",
        "a part compiled and parallel", "a part checkpointed", "training", "channels last",
        "frozen",
    ],
)  # fmt: skip
def test_what_is_around_a_network_is_taken_off_a_copy(wrapped):
    given = wrapped()
    taken, before = plain_copy(given), set(given.state_dict())
    assert taken.state_dict().keys() == network().state_dict().keys()
    assert fingerprint(taken.state_dict()) == fingerprint(given.state_dict())
    torch.testing.assert_close(taken.eval()(IMAGES), network()(IMAGES))
    assert set(given.state_dict()) == before


def test_a_network_that_is_trained_by_several_processes(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        taken = plain_copy(nn.parallel.DistributedDataParallel(network().requires_grad_(True)))
    finally:
        torch.distributed.destroy_process_group()
    assert torch.equal(taken(IMAGES), network()(IMAGES))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_values_of_another_type_are_computed_with_in_float32(dtype):
    given = network().to(dtype)
    with pytest.warns(HastWarning, match=f"values in {str(dtype)[6:]}; it is computed with in fl"):
        taken = plain_copy(given)
    assert {tensor.dtype for tensor in taken.parameters()} == {torch.float32}
    assert given.fc.weight.dtype == dtype


@pytest.mark.parametrize(
    "normalized",
    [
        nn.utils.weight_norm, nn.utils.spectral_norm, parametrizations.weight_norm,
        parametrizations.spectral_norm, parametrizations.orthogonal,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
    ],
    ids=["weight, hook", "spectral, hook", "weight", "spectral", "orthogonal", "pruned"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm:FutureWarning")
def test_weights_that_are_computed_are_computed_once(normalized):
    given = network()
    normalized(given.stem)
    normalized(given.fc)
    given(IMAGES)  # leaves results behind that deepcopy refuses
    with pytest.warns(HastWarning, match=r"computes stem\.weight, fc\.weight from other tensors"):
        taken = plain_copy(given)
    assert taken.state_dict().keys() == network().state_dict().keys()
    torch.testing.assert_close(taken(IMAGES), given(IMAGES))
    assert "stem.weight" not in given.state_dict()


@pytest.mark.filterwarnings(
    "ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning"
)
def test_what_cannot_be_quantized_is_refused_in_one_line():
    given = network()
    exported = torch.export.export(given, (IMAGES,)).module()
    with warnings.catch_warnings(action="ignore"):
        already = torch.ao.quantization.quantize_dynamic(network(), {nn.Linear})
    for unusable, why in {
        torch.jit.trace(given, IMAGES): "Net is scripted, or in part, so it cannot be worked with",
        exported: "is an exported graph without modules, so it cannot",
        already: "quantized already, .* give the network in full precision",
        network().to("meta"): "Net is on the device meta, without values, .* load its weights",
        (lambda images: images): "a network must be a torch.nn.Module, got function",
    }.items():
        with refused(why):
            plain_copy(unusable)


def test_what_a_copy_cannot_take_along_is_refused_in_one_line():
    locked, patched = network(), network()
    locked.lock = threading.Lock()
    forward = patched.body.forward
    patched.body.forward = lambda x: forward(x)
    with refused("Net holds what cannot be copied .* delete it"):
        plain_copy(locked)
    with refused("Net has a forward that was put onto body, which no copy takes along"):
        plain_copy(patched)
    bound = network()
    bound.body.forward = bound.body.forward
    torch.testing.assert_close(plain_copy(bound)(IMAGES), network()(IMAGES))


class OwnNorm(nn.Module):
    """Looks like BatchNorm, and has no epsilon."""

    def __init__(self):
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(4))

    def forward(self, x):
        if self.training:
            self.running_mean += 1
        values = (v[:, None, None] for v in self.buffers())
        weight, bias, mean, variance = values
        return (x - mean) * variance.rsqrt() * weight + bias


class Centred(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(shape))

    def forward(self, x):
        return x - self.running_mean


@pytest.mark.parametrize(
    "norm",
    [
        OwnNorm(), Centred((1, 4, 1, 1)), Centred(()), Centred((4, 1, 1)), Centred((14,)),
        nn.InstanceNorm2d(4, track_running_stats=True),
    ],
    ids=["without epsilon", "a batch", "one number", "a map", "a row", "InstanceNorm"],
)  # fmt: skip
def test_a_network_in_train_mode_answers_as_in_eval_mode(norm):
    given = inside(lambda body: nn.Sequential(body, norm)).train()
    torch.manual_seed(3)
    with torch.random.fork_rng():
        expected = torch.rand(1)
    taken = plain_copy(given)
    assert torch.equal(torch.rand(1), expected)  # nobody's random numbers were drawn
    assert fingerprint(taken.state_dict()) == fingerprint(given.state_dict())
    torch.testing.assert_close(taken(IMAGES), given.eval()(IMAGES))


def test_what_is_batch_norm_does_not_depend_on_the_values():
    small = OwnNorm()
    small.running_var *= 1e-5
    assert isinstance(plain_copy(nn.Sequential(small))[0], OwnNorm)
    assert isinstance(plain_copy(nn.Sequential(OwnNorm()))[0], OwnNorm)


def test_a_shared_module_is_replaced_wherever_it_is():
    frozen = FrozenBatchNorm2d(4)
    taken = plain_copy(nn.Sequential(frozen, nn.ReLU(), frozen))
    assert taken[0] is taken[2]
    assert isinstance(taken[0], nn.BatchNorm2d)


def test_computed_weights_can_be_loaded_into_another_copy():
    copies = []
    for _ in range(2):
        given = network()
        nn.utils.spectral_norm(given.stem)
        copies.append(plain_copy(given, say=None))
    load_state(copies[1], copies[0].state_dict(), name="file")


def test_where_a_network_comes_from_survives_its_wrapper():
    inside = network()
    wrapped = nn.DataParallel(inside)
    for named in (wrapped, inside):
        remember(named, source="python:mine:net", source_args={"depth": 3})
        known = provenance_of(plain_copy(wrapped))
        assert (known.source, known.source_args) == ("python:mine:net", {"depth": 3})
        vars(named).pop("hast_provenance")


def test_what_is_only_measured_need_not_be_quantizable():
    with warnings.catch_warnings(action="ignore"):
        already = torch.ao.quantization.quantize_dynamic(network(), {nn.Linear})
        scripted = torch.jit.script(nn.Sequential(FrozenBatchNorm2d(3), nn.Flatten()))
    images = [(IMAGES, torch.zeros(4).long())]
    assert hast.evaluate(already, images, progress=False).samples == 4
    with refused("is scripted, or in part"):
        hast.evaluate(scripted, images, progress=False)
    student = calibrated(network(), SPEC, quantizer="learned")
    held = plain_copy(nn.Sequential(student))
    assert torch.equal(held(IMAGES), student(IMAGES))
    assert held.state_dict().keys() == nn.Sequential(student).state_dict().keys()


def test_a_wrapped_teacher_goes_all_the_way(tmp_path):
    teacher = nn.DataParallel(compiled(network()))
    bank = hast.synthesize(teacher, SPEC, samples=8, batch_size=8, steps=2, progress=False)
    ranges = {"batches": 1, "batch_size": 8}
    student = hast.quantize(
        teacher, SPEC, bank, steps=1, batch_size=4, calibration=ranges, progress=False
    )
    hast.save(student, tmp_path / "packed")
    loaded = hast.load(tmp_path / "packed", network=network())
    assert torch.equal(loaded(IMAGES), student(IMAGES))
    measured = hast.evaluate(teacher, [(IMAGES, torch.zeros(4).long())], progress=False)
    assert measured.samples == 4


def test_a_rounded_copy_is_another_teacher_and_the_message_says_so():
    bank = hast.synthesize(network(), SPEC, samples=4, batch_size=4, steps=1, progress=False)
    with (
        pytest.warns(HastWarning, match="has values in float16"),
        refused("whose values are rounded to float16: a rounded copy is another teacher"),
    ):
        hast.calibrate(network().half(), SPEC, bank, progress=False)
