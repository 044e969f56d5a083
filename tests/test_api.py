"""The Python API as the README shows it."""

import copy

import pytest
import torch
from conftest import python, refused
from students import Net, is_same
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hast
from hast.bank.stored import StoredBank

SYNTHESIS = {"samples": 16, "steps": 3, "batch_size": 8}
FINETUNING = {"steps": 3, "batch_size": 8}


@pytest.fixture
def bank(teacher, spec):
    return hast.synthesize(teacher, spec, progress=False, **SYNTHESIS)


@pytest.fixture
def generator(teacher, spec):
    return hast.train_generator(
        teacher, spec, steps=2, width=8, latent_dim=4, batch_size=4, progress=False
    )


def test_a_bank_a_student_and_its_accuracy(teacher, spec, bank, generator):
    before = copy.deepcopy(teacher.state_dict())
    student = hast.quantize(
        teacher, spec, bank, weight_bits=4, act_bits=3, generator=generator, progress=False,
        **FINETUNING,
    )  # fmt: skip
    assert isinstance(bank, hast.Bank)
    assert type(student) is type(teacher)
    images, labels = torch.randn(20, 1, 8, 8), torch.randint(10, (20,))
    assert student(images).shape == (20, 10)

    loader = DataLoader(TensorDataset(images, labels), batch_size=8)
    result = hast.evaluate(student, loader, teacher=teacher, progress=False)
    answers = student(images)
    top1 = (answers.argmax(1) == labels).float().mean()
    assert result.top1 == pytest.approx(top1.item())
    in_five = (answers.topk(5, 1).indices == labels[:, None]).any(1).float().mean()
    assert result.top5 == pytest.approx(in_five.item())
    agreement = (answers.argmax(1) == teacher(images).argmax(1)).float().mean()
    assert result.agreement == pytest.approx(agreement.item())
    assert is_same(teacher.state_dict(), before)


def test_one_call_does_it_all_shows_progress_and_leaves_the_teacher(teacher, spec, capsys):
    before = copy.deepcopy(teacher.train().requires_grad_(True).state_dict())
    student = hast.quantize_zero_shot(
        teacher, spec, weight_bits=3, act_bits=4, steps=2,
        synthesis={"samples": 8, "steps": 2, "batch_size": 8},
    )  # fmt: skip
    assert student(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    shown = capsys.readouterr().err
    assert "synthesize" in shown
    assert "quantize w3a4: 2/2" in shown
    assert teacher.training
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    assert is_same(teacher.state_dict(), before)


def test_one_seed_makes_one_student_and_silence_is_possible(teacher, spec, bank, generator, capsys):
    again = hast.synthesize(teacher, spec, progress=False, **SYNTHESIS)
    assert torch.equal(bank.images, again.images)
    first, second = (
        hast.quantize(teacher, spec, b, generator=generator, progress=False, **FINETUNING)
        for b in (bank, again)
    )
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(first(x), second(x))
    assert capsys.readouterr() == ("", "")


def test_layers_can_have_bits_of_their_own(teacher, spec, bank, generator):
    student = hast.quantize(
        teacher, spec, bank, generator=generator, progress=False,
        layers={"first_last_bits": 8, "overrides": [{"match": "stages.1*", "weight_bits": 6}],
                "skip": ["stages.0.body.0"]},
        **FINETUNING,
    )  # fmt: skip
    assert student.stem[0].parametrizations.weight[0].bits == 8
    assert student.stages[1].body[0].parametrizations.weight[0].bits == 6
    assert not hasattr(student.stages[0].body[0], "parametrizations")


@pytest.mark.parametrize(
    ("call", "settings", "message"),
    [
        ("synthesize", {"stepz": 3}, "synthesize.stepz: unknown parameter, got 3"),
        ("synthesize", {"steps": 0}, "synthesize.steps: .* got 0"),
        ("synthesize", {"init": "generator"}, "init 'generator' needs a generator"),
        ("quantize", {"weight_bits": 1}, "2 to 8 bits"),
        ("quantize", {"act_bits": 9}, "2 to 8 bits"),
        ("quantize", {"calibration": {"images": "generator"}}, "needs a generator, got none"),
    ],
)
def test_wrong_settings_are_one_clear_line(teacher, spec, bank, call, settings, message):
    made_from = {"synthesize": [], "quantize": [bank]}[call]
    with refused(message):
        getattr(hast, call)(teacher, spec, *made_from, progress=False, **settings)


def test_a_bank_of_another_teacher_or_shape_is_refused(teacher, spec, bank):
    other = copy.deepcopy(teacher)
    nn.init.zeros_(other.classifier.bias)
    darker = spec.model_copy(update={"mean": (0.4,)})
    small = bank._replace(images=bank.images[..., :6])
    for network, wanted, given, message in (
        (other, spec, bank, "the bank was made for teacher"),
        (teacher, darker, bank, r"made for mean \(.*\) but the teacher has \(0\.4,\)"),
        (teacher, spec, small, "holds 1x8x6 images but the spec says 1x8x8"),
        (
            teacher,
            spec,
            "bank",
            "must be what hast.synthesize or hast.open_bank returns, got 'bank'",
        ),
        (teacher, spec.model_dump(), bank, "spec must be a hast.ModelSpec, got {'input_shape'"),
    ):
        with refused(message):
            hast.quantize(network, wanted, given, progress=False, **FINETUNING)


def test_an_empty_loader_is_refused(teacher):
    with refused("at least one batch"):
        hast.evaluate(teacher, [], progress=False)


def test_the_face_has_its_names_and_no_others():
    assert set(hast.__all__) <= set(dir(hast))
    assert all(getattr(hast, name) is not None for name in hast.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hast.nothing


def test_a_classifier_comes_from_a_source_a_checkpoint_and_a_spec(tmp_path, teacher):
    torch.save({"state_dict": teacher.state_dict()}, tmp_path / "w.pth")
    network, spec = hast.load_classifier(
        "builtin:digits_resnet", weights=str(tmp_path / "w.pth"), source_args={"widths": (8, 16)}
    )
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(network(x), teacher(x))
    assert spec.num_classes == 10
    with refused("weights are required for source torchvision:"):
        hast.load_classifier("torchvision:resnet18")
    with refused(r"spec\.size: unknown parameter"):
        hast.load_classifier("builtin:digits_resnet", spec={"size": 3})


def test_a_network_that_changes_its_input_agrees_with_itself(spec):
    torch.manual_seed(0)
    network = Net(
        lambda net, x: net.head(net.body(x.sub_(5.0)).mean((2, 3))),  # of the image it is given
        body=nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        head=nn.Linear(8, 10),
    ).eval()
    images = torch.randn(40, 1, 8, 8)
    kept = images.clone()
    loader = [(images, torch.zeros(40, dtype=torch.int64))]
    assert hast.evaluate(network, loader, teacher=network, progress=False).agreement == 1
    assert torch.equal(images, kept)
    bank = hast.synthesize(network, spec, progress=False, **SYNTHESIS)
    pixels = bank.images.clone()
    student = hast.quantize(network, spec, bank, weight_bits=8, act_bits=8, progress=False,
                            **FINETUNING)  # fmt: skip
    assert torch.equal(bank.images, pixels)
    assert hast.evaluate(student, loader, teacher=network, progress=False).agreement > 0.8
    assert torch.equal(images, kept)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_a_saved_bank_has_the_difficulty_of_the_pixels_it_stores(teacher, spec, dtype, tmp_path):
    made = hast.synthesize(teacher, spec, dtype=dtype, progress=False, **SYNTHESIS)
    hast.save_bank(made, tmp_path / "bank")
    read = hast.open_bank(tmp_path / "bank")
    probabilities = teacher(read.images).softmax(1)
    difficulty = 1 - probabilities[torch.arange(len(read.labels)), read.labels]
    assert torch.allclose(read.difficulty, difficulty, atol=1e-5)


def test_a_bank_whose_pixels_would_be_rounded_is_not_saved(bank, tmp_path):
    floats = bank._replace(images=torch.randn(bank.images.shape))
    with refused(r"difficulties are of its float32 images.*uint8"):
        hast.save_bank(floats, tmp_path / "bank")
    assert not (tmp_path / "bank").exists()
    card = bank.card.model_copy(update={"dtype": "float32"})
    hast.save_bank(floats._replace(card=card), tmp_path / "bank")
    assert torch.equal(hast.open_bank(tmp_path / "bank").images, floats.images)


def test_a_bank_left_in_its_files_makes_the_same_student(teacher, spec, bank, tmp_path):
    hast.save_bank(bank, tmp_path / "bank")
    answers = [
        hast.quantize(teacher, spec, given, progress=False, **FINETUNING)(bank.images)
        for given in (hast.open_bank(tmp_path / "bank"), StoredBank(tmp_path / "bank"))
    ]
    assert torch.equal(*answers)


ELSEWHERE = """
import ctypes, os, sys
import torch, zarr  # which act on the name of the system
sys.modules["fcntl"] = None  # importing it fails
for name in ("uname", "killpg", "getpgid", "setsid"):
    delattr(os, name)
library = ctypes.CDLL.__init__
def only_named(self, name, *args, **kwargs):
    if name is None:
        raise TypeError("a library has a name here")
    library(self, name, *args, **kwargs)
ctypes.CDLL.__init__ = only_named

import hast, hast.cli.main
from hast.networks.sources import build_network

spec = hast.ModelSpec(input_shape=(1, 8, 8), num_classes=10, mean=(0.5,), std=(0.5,))
teacher = build_network("builtin:digits_resnet", {"widths": (8, 16)}).network.eval()
bank = hast.synthesize(teacher, spec, samples=16, steps=2, batch_size=8)
hast.save_bank(bank, "bank")
student = hast.quantize(teacher, spec, hast.open_bank("bank"), steps=2, batch_size=8)
hast.save(student, "packed")
x = torch.randn(4, 1, 8, 8)
assert torch.equal(hast.load("packed")(x), student(x))
"""


def test_the_whole_run_needs_nothing_that_only_unix_has(tmp_path):
    python("-c", ELSEWHERE, cwd=tmp_path)
