"""The packed checkpoint: the same answers to the bit, at the size that the bits promise."""

import json
import math
import os
from hashlib import sha256

import pytest
import torch
from conftest import files, refused
from safetensors.torch import load_file, save_file
from students import SHARING, Net, Sharing, calibrated, warm_classifier, warm_network
from torch import nn

import hast
from hast.networks.codes import activation_sites, weight_codes
from hast.networks.folding import fold_batch_norm
from hast.networks.size import packed_size


def digits():
    return warm_classifier("builtin:digits_resnet", {"widths": [8, 16]}, (1, 8, 8))


@pytest.fixture
def student(spec):
    return calibrated(digits()[0], spec, "w3a4")


def answers_of(network, spec):
    x = torch.randn(4, *spec.input_shape, generator=torch.Generator().manual_seed(7))
    return network(x)


def returned(student, spec, path, **options):
    """What comes back of a student from a file; it answers the same to the bit."""
    loaded = hast.load(hast.save(student, path), **options)
    assert torch.equal(answers_of(loaded, spec), answers_of(student, spec))
    return loaded


def pooled(network, x):
    """Convolution, BatchNorm, mean, and a linear layer."""
    return network.fc(torch.relu(network.norm(network.conv(x))).mean((2, 3)))


def small(compute=pooled, channels=4, **parts):
    return Net(
        compute, conv=nn.Conv2d(1, channels, 3, padding=1), norm=nn.BatchNorm2d(channels),
        fc=nn.Linear(channels, 10), **parts,
    )  # fmt: skip


@pytest.mark.parametrize("placement", ["inputs", "relu"])
@pytest.mark.parametrize("quantizer", ["minmax", "learned"])
@pytest.mark.parametrize("bits", ["w2a8", "w3a3", "w4a32", "w5a6", "w7a4", "w8a2"])
def test_a_loaded_student_answers_the_same_to_the_bit(bits, placement, quantizer, tmp_path):
    network, spec = digits()
    student = calibrated(network, spec, bits, placement=placement, quantizer=quantizer)
    assert type(returned(student, spec, tmp_path / bits)) is type(network)


@pytest.mark.parametrize(
    ("source", "placement"),
    [("torchvision:resnet18", "relu"), ("torchvision:mobilenet_v2", "inputs")],
)
def test_shared_relus_and_depthwise_convolutions_come_back_too(source, placement, tmp_path):
    network, spec = warm_classifier(source, {}, (3, 32, 32))
    returned(calibrated(network, spec, "w3a4", placement=placement), spec, tmp_path / "student")


def test_layers_with_bits_of_their_own_and_none_come_back(spec, tmp_path):
    student = calibrated(
        digits()[0], spec, "w3a4", first_last_bits=8, skip=["stages.0.body.3"],
        overrides=[{"match": "stages.1.*", "weight_bits": 5}],
    )  # fmt: skip
    loaded = returned(student, spec, tmp_path / "student")
    widths = {name: codes.bits for name, codes in weight_codes(loaded).items()}
    assert widths == {name: codes.bits for name, codes in weight_codes(student).items()}
    assert set(widths.values()) == {3, 5, 8}
    assert "stages.0.body.3" not in widths
    sites = [q.bits for s in activation_sites(loaded).values() for q in s]
    assert sites == [q.bits for s in activation_sites(student).values() for q in s]


def test_a_loaded_student_can_be_saved_again_to_the_same_bytes(student, tmp_path):
    first = hast.save(student, tmp_path / "first")
    second = hast.save(hast.load(first), tmp_path / "second")
    assert files(first) == files(second)


@pytest.mark.parametrize("bits", ["w8a8", "w4a4", "w3a3", "w2a2"])
@pytest.mark.parametrize(
    ("source", "shape"),
    [("pytorchcv:resnet20_cifar10", (3, 32, 32)), ("builtin:digits_resnet", (1, 8, 8))],
)
def test_the_tensors_take_what_is_reported_and_the_rest_little(source, shape, bits, tmp_path):
    network, spec = warm_classifier(source, {}, shape)
    student = calibrated(network, spec, bits)
    path = hast.save(student, tmp_path / bits)
    tensors = load_file(path / "model.safetensors")
    assert sum(t.nbytes for t in tensors.values()) == packed_size(student)
    weights = sum(c.codes.numel() for c in weight_codes(student).values())
    assert packed_size(student) > weights * int(bits[1]) / 8
    size = sum(map(len, files(path).values()))
    assert size - packed_size(student) < max(1500, 0.03 * packed_size(student))


def test_folded_batch_norm_is_smaller_and_equals_the_folded_student(student, spec, tmp_path):
    kept = hast.save(student, tmp_path / "kept")
    folded = hast.save(student, tmp_path / "folded", fold_batch_norm=True)
    loaded = hast.load(folded)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in loaded.modules())
    expected = answers_of(fold_batch_norm(student, spec), spec)
    assert torch.equal(answers_of(loaded, spec), expected)
    sizes = [(path / "model.safetensors").stat().st_size for path in (kept, folded)]
    assert sizes[1] < sizes[0]
    again = hast.save(loaded, tmp_path / "again")
    assert torch.equal(answers_of(hast.load(again), spec), expected)


def test_the_card_speaks_the_vocabulary_of_quantization_config(student, tmp_path):
    path = hast.save(student, tmp_path / "student")
    card = json.loads((path / "config.json").read_text())
    assert (card["format"], card["version"]) == ("hast-checkpoint", 1)
    assert card["source"] == "builtin:digits_resnet"
    assert card["source_args"] == {"num_classes": 10, "widths": [8, 16]}
    config = card["quantization_config"]
    assert config["quant_method"] == "hast"
    group, image = config["config_groups"].values()
    assert (image["targets"], image["input_activations"]["num_bits"]) == (["stem.0"], 8)
    assert sorted(group["targets"]) == ["Conv2d", "Linear"]
    common = {"type": "int", "symmetric": False, "dynamic": False}
    assert group["weights"] == {"num_bits": 3, "strategy": "channel"} | common
    assert group["input_activations"] == {"num_bits": 4, "strategy": "tensor"} | common
    assert len(card["teacher"]) == 64


def test_someone_without_this_package_can_unpack_the_first_layer(student, tmp_path):
    tensors = load_file(hast.save(student, tmp_path / "student") / "model.safetensors")

    def first_of(name: str, *shape: int) -> torch.Tensor:
        """Numbers of three bits, the lowest first."""
        bits = [(byte >> i) & 1 for byte in tensors[name].tolist() for i in range(8)]
        triples = torch.tensor(bits[: 3 * math.prod(shape)]).view(-1, 3)
        return (triples * torch.tensor([1, 2, 4])).sum(1).view(shape)

    weight = student.stem[0].weight
    steps = first_of("weight_packed", *weight.shape) - first_of("weight_zero_point", 8, 1, 1, 1)
    assert torch.equal(steps * tensors["weight_scale"][:8].view(8, 1, 1, 1), weight)


def test_other_tensors_than_floats_are_kept(spec, tmp_path):
    def compute(net, x):
        return net.fc(net.norm(net.conv(x)).mean((2, 3))[:, net.order])

    order = nn.Buffer(torch.tensor([2, 0, 3, 1]))
    student = calibrated(warm_network(small(compute, order=order), spec), spec)
    network = small(compute, order=nn.Buffer(torch.zeros(4, dtype=torch.int64)))
    assert torch.equal(returned(student, spec, tmp_path / "s", network=network).order, order)


def tied():
    """A convolution and a BatchNorm with two names each, and a linear layer of the rest."""

    def compute(net, x):
        x = net.relu(net.norm_again(net.conv(x)))
        return net.fc(net.again(net.relu(net.deep(x))).mean((2, 3)))

    network = small(compute, deep=nn.Conv2d(4, 4, 3, padding=1), relu=nn.ReLU())
    network.again, network.norm_again = network.deep, network.norm
    return network


@pytest.mark.parametrize("rules", [{}, {"placement": "relu"}, {"skip": ["deep"]}])
@pytest.mark.parametrize("folded", [False, True])
def test_a_module_with_two_names_is_stored_once_and_comes_back(rules, folded, spec, tmp_path):
    student = calibrated(warm_network(tied(), spec), spec, "w3a3", **rules)
    path = hast.save(student, tmp_path / "student", fold_batch_norm=folded)
    loaded = hast.load(path, network=tied())
    expected = fold_batch_norm(student, spec) if folded else student
    assert torch.equal(answers_of(loaded, spec), answers_of(expected, spec))
    assert loaded.again is loaded.deep
    tensors = load_file(path / "model.safetensors")
    assert sum(t.nbytes for t in tensors.values()) == packed_size(expected)


@pytest.mark.parametrize("placement", ["inputs", "relu"])
def test_names_of_layers_that_are_names_of_classes_are_not_mixed_up(placement, spec, tmp_path):
    def compute(net, x):
        x = net.BatchNorm2d(net.ReLU(net.Conv2d(x)))
        x = net.BatchNorm2d(net.Linear(x)).mean((2, 3))
        return net.fc(net.BatchNorm2d(net.kept(net.deep(x))))

    def build():
        return Net(
            compute, Conv2d=nn.Conv2d(1, 8, 3, padding=1), ReLU=nn.BatchNorm2d(8),
            Linear=nn.Conv2d(8, 8, 1), kept=nn.Linear(8, 8), BatchNorm2d=nn.ReLU(),
            deep=nn.Linear(8, 8), fc=nn.Linear(8, 10),
        )  # fmt: skip

    rules = {"first_last_bits": 8, "skip": ["kept"], "placement": placement}
    student = calibrated(warm_network(build(), spec), spec, "w3a4", **rules)
    loaded = returned(student, spec, tmp_path / "student", network=build())
    widths = {name: codes.bits for name, codes in weight_codes(loaded).items()}
    assert widths == {"Conv2d": 8, "Linear": 3, "deep": 3, "fc": 8}


def masked(at=3):
    """Adds a mask of minus infinity to logits, as attention does."""
    mask = torch.zeros(10)
    mask[at] = -torch.inf
    return small(
        lambda net, x: pooled(net, x) + net.mask,
        mask=nn.Buffer(mask), wide_mask=nn.Buffer(mask.double()),
    )  # fmt: skip


def test_an_infinite_buffer_is_kept(spec, tmp_path):
    student = calibrated(warm_network(masked(), spec), spec)
    loaded = returned(student, spec, tmp_path / "student", network=masked(at=5))
    assert torch.equal(loaded.wide_mask, student.wide_mask)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mask", torch.nan, "the checkpoint's mask must hold numbers"),
        ("wide_mask", torch.nan, "the checkpoint's wide_mask must hold numbers"),
        ("fc.bias", torch.inf, r"the checkpoint's fc\.bias must hold finite numbers"),
    ],
)
def test_what_is_no_number_is_refused(name, value, message, spec, tmp_path):
    student = calibrated(warm_network(masked(), spec), spec)
    dict(student.state_dict())[name].view(-1)[0] = value
    with refused(message):
        hast.save(student, tmp_path / "student")
    assert list(tmp_path.iterdir()) == []


def test_a_network_without_a_source_needs_the_architecture(spec, tmp_path):
    student = calibrated(warm_network(small(), spec), spec)
    returned(student, spec, tmp_path / "student", network=small())
    with refused(r"hast.load\(path, network=MyNetwork\(\)\)"):
        hast.load(tmp_path / "student")
    with refused("has other layers than the checkpoint"):
        hast.load(tmp_path / "student", network=small(channels=5))


def test_a_python_source_runs_only_where_it_is_trusted(student, spec, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from hast.networks.digits_resnet import DigitsResNet\n"
        "def build(widths):\n"
        "    open('ran', 'w').close()\n"
        "    return DigitsResNet(widths=widths)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = hast.save(student, "out", source="python:mine:build", source_args={"widths": [8, 16]})
    os.remove("ran")
    with refused("trust_source=True"):
        hast.load(path)
    assert not os.path.exists("ran")
    loaded = hast.load(path, trust_source=True)
    assert torch.equal(answers_of(loaded, spec), answers_of(student, spec))


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        ("torchvision:resnet18", None, "does not rebuild|has other layers|cannot"),
        ("builtin:digits_resnet", None, "has other layers than the checkpoint"),
        ("timm:no_such", None, "timm:no_such"),
        ("builtin:digits_resnet", {"widths": [8, 8]}, "has other layers than the checkpoint"),
        # Not even JSON can hold these.
        ("builtin:digits_resnet", {"widths": torch.zeros(2)}, "does not rebuild the student"),
    ],
)
def test_a_failed_save_leaves_the_old_checkpoint_alone(
    student, source, arguments, message, tmp_path
):
    path = hast.save(student, tmp_path / "student")
    before = files(path)
    for place in (path, tmp_path / "new"):
        with refused(message):
            hast.save(student, place, source=source, source_args=arguments)
    assert files(path) == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_one_clear_line(student, tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file/below", "/proc/packed"):
        with refused("cannot be written"):
            hast.save(student, place)
    assert files(tmp_path) == {"file": b"mine"}


def test_what_is_no_student_or_not_calibrated_is_refused(teacher, spec, tmp_path):
    with refused(r"is no student; make one with hast\.quantize"):
        hast.save(teacher, tmp_path / "teacher")
    student = calibrated(teacher, spec)
    student.stem[0].activation_quantizers[0].scale.fill_(torch.nan)
    with refused("has no activation ranges; calibrate it first"):
        hast.save(student, tmp_path / "student")
    assert not (tmp_path / "student").exists()


def edit(name, change):
    def damage(path):
        (path / name).write_bytes(change((path / name).read_bytes()))

    return damage


def edit_card(**values):
    return edit("config.json", lambda b: json.dumps(json.loads(b) | values).encode())


DAMAGE = {
    "missing tensors": (lambda p: (p / "model.safetensors").unlink(), "cannot be read"),
    "missing card": (lambda p: (p / "config.json").unlink(), "cannot be read"),
    "flipped bit": (edit("model.safetensors", lambda b: b[:-1] + bytes([b[-1] ^ 1])), "has sha256"),
    "cut": (edit("model.safetensors", lambda b: b[:-9]), "has sha256"),
    "no json": (edit("config.json", lambda b: b[:-9]), "Invalid JSON"),
    "a newer version": (edit_card(version=2), "has version 2, this hast reads version 1"),
    "another format": (
        edit_card(format="other"),
        "not the card of a packed checkpoint; name another folder",
    ),
    "an unknown field": (edit_card(surprise=1), "surprise: unknown parameter"),
    "another layout": (edit_card(layout="0" * 16), "has other layers"),
    "another network": (edit_card(source="torchvision:alexnet"), "cannot be built"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_checkpoint_is_refused_with_one_line(student, damage, message, tmp_path):
    path = hast.save(student, tmp_path / "student")
    damage(path)
    with refused(message):
        hast.load(path)


def test_scales_that_would_make_no_number_are_refused(student, tmp_path):
    path = hast.save(student, tmp_path / "student")
    tensors = load_file(path / "model.safetensors")
    tensors["activation_scale"][0] = 0.0
    save_file(tensors, path / "model.safetensors")
    edit_card(sha256=sha256((path / "model.safetensors").read_bytes()).hexdigest())(path)
    with refused("scales must be positive"):
        hast.load(path)


def test_a_student_of_a_loaded_classifier_knows_its_source(tmp_path, teacher):
    torch.save(teacher.state_dict(), tmp_path / "w.pth")
    network, spec = hast.load_classifier(
        "builtin:digits_resnet", weights=str(tmp_path / "w.pth"), source_args={"widths": (8, 16)}
    )
    returned(calibrated(network, spec, "w4a4"), spec, tmp_path / "s")


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("quantizer", ["minmax", "learned"])
def test_shared_weights_and_transposed_convolutions_come_back(quantizer, fold, tmp_path):
    network = warm_network(Sharing(), SHARING)
    student = calibrated(network, SHARING, "w3a4", quantizer=quantizer)
    hast.save(student, tmp_path / "s", fold_batch_norm=fold)
    loaded = hast.load(tmp_path / "s", network=Sharing())
    x = torch.randn(8, 3, 8, 8)
    if fold:
        assert (loaded(x) - student(x)).abs().mean() < 0.1 * student(x).std()
    else:
        assert torch.equal(loaded(x), student(x))


def test_a_student_that_would_not_come_back_is_not_written(student, tmp_path):
    """Its forward depends on something that no checkpoint holds."""
    student.classifier.register_forward_hook(lambda _module, _args, logits: logits + 1)
    with refused("answers otherwise than the student"):
        hast.save(student, tmp_path / "s", source="builtin:digits_resnet",
                  source_args={"widths": [8, 16]})  # fmt: skip
    assert not (tmp_path / "s").exists()
