"""The stages as functions, one after the other, in their smallest real form."""

import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import refused, set_params
from own_network import make_images
from stage_runs import A, M, run, run_all, run_generator, run_student, run_synthesize, run_teacher

from hast.bank import shards
from hast.config.dataset import DatasetConfig
from hast.config.params import SECTIONS
from hast.config.section import Section
from hast.errors import NonFiniteLossError
from hast.files.datasets import open_batches
from hast.files.tables import read_json, read_tsv
from hast.files.weights import read_state
from hast.networks.digits_resnet import DIGITS_SPEC
from hast.stages import inputs, teacher

FOLDER = {"dataset.name": "folder", "dataset.root": "images"}
SENSITIVITY = {"sensitivity.enabled": True, "sensitivity.samples": 8}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"quantize.steps": -1}, "quantize.steps: .* greater than or equal to 0, got -1"),
        (FOLDER, "no valid file for the classes a"),
        (FOLDER | {"dataset.root": "nowhere"}, "must be a folder .* got nowhere"),
    ],
)
def test_the_first_stage_finds_what_a_later_one_would_end_with(project, values, message):
    (project / "images/test/a").mkdir(parents=True)
    set_params(project, values)
    with refused(message):
        run_teacher()
    assert not (project / A / "teacher").exists()


def test_every_parameter_is_read_by_the_stages(project, monkeypatch):
    read = set()
    original = Section.__getattribute__

    def recording(self, name):
        read.add((type(self), name))
        return original(self, name)

    monkeypatch.setattr(Section, "__getattribute__", recording)
    # Crops inside the loop, so that their size is read too.
    set_params(project, {"synthesize.augment_probability": 1.0, "export.formats": ["program"]})
    set_params(project, SENSITIVITY)
    run_all(["w4a4"])
    learned = {"layers.quantizer": "learned", "reconstruct.steps": 1, "reconstruct.samples": 8}
    set_params(project, learned)
    run("calibrate")
    run("reconstruct")
    make_images(project / "images/test", classes=10)
    open_batches(DatasetConfig(name="folder", root=project / "images"), "test", DIGITS_SPEC)
    set_params(project, {"bank.source": "images", "layers.quantizer": "minmax"})
    run("inputs")
    run_synthesize()

    sections = [*SECTIONS.values(), teacher.TrainingConfig]
    fields = {(section, name) for section in sections for name in section.model_fields}
    assert fields - read == set()


def test_bits_are_allocated_by_sensitivity_within_the_budget(finished):
    rules = {"layers.average_weight_bits": 3.0, "layers.first_last_bits": 8}
    set_params(finished, SENSITIVITY | rules)
    run("sensitivity")
    run("calibrate")
    layers = read_tsv(A / "layers/w4a4.tsv")
    assert [layers[0]["weight_bits"], layers[-1]["weight_bits"]] == ["8", "8"]
    inner = [(int(x["parameters"]), int(x["weight_bits"])) for x in layers[1:-1]]
    average = sum(n * b for n, b in inner) / sum(n for n, _ in inner)
    assert 2 <= average <= 3
    assert len({b for _, b in inner}) > 1
    card = read_json(A / "calibrated/w4a4/card.json")
    assert list(card["plan"]["weights"].values()) == [int(x["weight_bits"]) for x in layers]


def test_nan_in_synthesis_keeps_what_was_finished(begun, monkeypatch):
    monkeypatch.setattr("hast.bank.writer._SHARD", 8)
    original = shards.synthesize

    def failing(teacher, *arguments):
        for step in original(teacher, *arguments):
            if step.batch == 1 and step.is_last:
                torch.nn.init.constant_(teacher.classifier.bias, torch.nan)
            yield step

    monkeypatch.setattr("hast.bank.shards.synthesize", failing)
    with pytest.raises(
        NonFiniteLossError, match=r"synthesize, batch 2.*not finite by step 0; likely cause"
    ):
        run_synthesize()
    (partial,) = Path(".partial").iterdir()
    assert {p.stem for p in (partial / "done").iterdir()} == {"0", "1"}
    assert not (A / "bank").exists()


def test_a_checkpoint_is_taken_instead_of_training(begun):
    trained = read_state(A / "teacher/model.safetensors")
    torch.save({"state_dict": trained}, "mine.pth")
    set_params(begun, {"teacher.weights": "mine.pth"})
    run_teacher()
    again = read_state(A / "teacher/model.safetensors")
    assert all(torch.equal(again[k], v) for k, v in trained.items())
    assert read_json(M / "teacher.json")["batch_norm_layers"] == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "python:torch.nn:Linear"}, "cannot be built"),
        ({"source": "python:torch.nn:Identity", "source_args": {}}, "input_shape must be given"),
        ({"source_args": {"num_classes": 7}}, "num_classes|10 logits|7 logits"),
        (
            {"source": "python:torch.nn:LazyLinear", "source_args": {"out_features": 2},
             "spec": {"input_shape": [1, 8, 8], "num_classes": 2, "mean": [0.0], "std": [1.0]}},
            "LazyLinear is lazy and has not seen an image",
        ),
    ],
)  # fmt: skip
def test_a_teacher_that_does_not_fit_is_refused(project, change, message):
    set_params(project, {f"teacher.{name}": value for name, value in change.items()})
    with refused(message):
        run_teacher()


def test_another_teacher_does_not_use_the_old_bank(finished):
    set_params(finished, {"teacher.training.seed": 1})
    run_teacher()
    run_generator()
    with refused("the bank was made for teacher"):
        run_student()


def test_a_replaced_checkpoint_factory_or_test_image_changes_the_fingerprints(project, monkeypatch):
    monkeypatch.syspath_prepend(str(project))
    (project / "mine.py").write_text("answer = 1")
    (project / "w.pth").write_bytes(b"1")
    image = project / "images/test/cat/0.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"1")
    set_params(project, FOLDER | {"teacher.source": "python:mine:f", "teacher.weights": "w.pth"})

    def fingerprints() -> list[str]:
        inputs.run(teacher=A / "t.json", dataset=A / "d.json", bank=A / "b.json", stages=A / "code")
        return [*read_json(A / "t.json").values(), *read_json(A / "d.json").values()]

    seen = [fingerprints()]
    assert fingerprints() == seen[0]
    for path in (project / "w.pth", project / "mine.py", image):
        path.write_bytes(path.read_bytes() + b"2")
        seen.append(fingerprints())
    changes = [[a != b for a, b in zip(x, y, strict=True)] for x, y in pairwise(seen)]
    assert changes == [[True, False, False], [False, True, False], [False, False, True]]


@pytest.mark.parametrize(
    ("start", "ranges", "bank", "is_trained"),
    [
        ("gaussian", "generator", None, True),
        ("pink", "bank", None, False),
        ("generator", "bank", None, True),
        ("pink", "generator", None, True),
        ("gaussian", "generator", "shared", True),
        ("generator", "bank", "shared", False),
    ],
)
def test_a_generator_is_trained_where_something_uses_it(begun, start, ranges, bank, is_trained):
    uses = {"synthesize.init": start, "calibrate.images": ranges, "bank.source": bank}
    set_params(begun, uses)
    shutil.rmtree(A / "generator")  # as DVC does
    run_generator()
    assert (A / "generator/model.safetensors").exists() == is_trained
    assert (A / "generator/not-trained.json").exists() != is_trained
