"""`hast quantize`, as someone uses it who has a checkpoint and no project."""

import json
from importlib import import_module
from pathlib import Path

import pytest
import stage_runs as runs
import torch
from conftest import refused
from own_network import FACTORY, SPEC, make_images, run

import hast
from hast.bank.stored import StoredBank
from hast.config.params import check_params, own_network
from hast.config.recipes import merged
from hast.config.section import read_yaml, write_yaml
from hast.config.sizes import sizes_within
from hast.engine.engine import select_device
from hast.files.students import load_student
from hast.files.teachers import load_teacher

TEACHER = [
    "builtin:digits_resnet", "--source-args", '{"widths": [8, 16]}',
    "--weights", "artifacts/teacher/model.safetensors",
]  # fmt: skip
OWN = ["python:mine:build", *SPEC]
FAST = ["--minutes", "0.02"]


def test_one_command_makes_a_packed_student_and_the_pipeline_the_same_again(finished):
    made = json.loads(run("quantize", *TEACHER, "--bits", "w4a8", *FAST, "--json").stdout)
    assert made["bits"] == "w4a8"
    assert made["size_bytes"] < made["full_size_bytes"] / 2
    assert 0 < made["held_back"]["agreement"] <= 1
    student = hast.load("packed")

    values = read_yaml(Path("packed/params.yaml"))
    write_yaml(Path("params.yaml"), values, comment="the test")
    check_params(Path("params.yaml"))
    runs.run_bank()
    runs.run_student("w4a8", until="quantize")
    cpu = select_device("cpu")
    again = load_student(runs.A / "students/w4a8", load_teacher(runs.A / "teacher", cpu))
    images = StoredBank(runs.A / "bank").images[:16]
    assert torch.equal(student(images), again(images))


def test_a_bank_a_student_of_it_and_its_accuracy_take_a_command_each(mine):
    torch.save(import_module("mine").build().state_dict(), "mine.pth")
    network = [*OWN, "--weights", "mine.pth"]
    made = run("synthesize", *network, "--samples", "20", *FAST)
    assert "bank: 20 samples" in made.stdout
    assert len(hast.open_bank("bank").labels) == 20
    with refused("bank: is there already"):
        run("synthesize", *network)
    run("quantize", *network, "--bank", "bank", "--bits", "w8a8", *FAST)

    make_images(Path("data/test"), classes=3)
    measure = ("evaluate", "packed", "--data-root", "data", "--trust-source")
    found = json.loads(run(*measure, "--json").stdout)
    assert found["samples"] == 6
    assert found["top1"] == pytest.approx(1 / 3)  # all pictures are the same
    assert "top-1 33.33%" in run(*measure).stdout


def test_the_fewest_bits_that_hold_are_found_and_written(finished):
    options = ["--bank", "artifacts/bank", "--max-drop", "30%", "--attempts", "3", "--out", "few"]
    made = json.loads(run("quantize", *TEACHER, *FAST, *options, "--json").stdout)
    assert 1 <= len(made["trials"]) <= 3
    best = [trial for trial in made["trials"] if trial["holds"]][-1]
    assert best["drop"] <= 0.3
    written = read_yaml(Path("few/params.yaml"))
    assert written["bit_widths"] == [best["bits"]] == [made["bits"]]
    assert written["layers"]["overrides"] == best["overrides"]
    assert written["bank"]["source"] == "artifacts/bank"
    check_params(Path("few/params.yaml"))


def test_with_test_images_it_says_what_is_lost_and_that_they_selected(mine):
    make_images(mine / "data/test", classes=3)
    options = [*SPEC, *FAST, "--data-root", "data", "--recipe", "best"]
    done = run("quantize", "python:mine:build", *options, "--max-drop", "0.5", "--attempts", "1")
    assert "of 6 test images" in done.stdout
    assert "it was selected by these images" in done.stdout
    again = run("quantize", "python:mine:build", *options, "--bits", "w8a8", "--out", "wide")
    assert "of 6 test images" in again.stdout
    assert "selected" not in again.stdout


def test_pictures_are_a_bank_also_for_a_network_without_batch_norm(mine, hast_here):
    (mine / "plain.py").write_text(FACTORY.replace("nn.BatchNorm2d(4), ", ""))
    make_images(mine / "pictures", classes=10)
    options = [*SPEC, *FAST, "--bits", "w8a8"]
    refused = hast_here("quantize", "python:plain:build", *options, code=2)
    assert "has no BatchNorm layer" in refused.stderr
    assert "--bank FOLDER" in refused.stderr
    done = hast_here("quantize", "python:plain:build", *options, "--bank", "pictures", "--json")
    assert json.loads(done.stdout)["held_back"]["agreement"] == 1.0
    assert "plain:build: pictures, " in done.stderr  # and no images that are not made
    make_images(mine / "few", classes=4)
    few = ["--bank", "few", "--out", "b"]
    refused = hast_here("quantize", "python:plain:build", *options, *few, code=2)
    assert "quantize.held_back: 0.1 of 8 samples is none" in refused.stderr
    assert "calibrate" not in refused.stderr
    assert read_yaml(Path("packed/params.yaml"))["bank"]["source"] == "pictures"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (OWN, "give either --bits, such as w4a8, or --max-drop"),
        ([*OWN, "--bits", "w4a8", "--max-drop", "1%"], "give either --bits"),
        ([*OWN, "--max-drop", "lots"], "--max-drop must be a share such as 1% or 0.01, got 'lots'"),
        ([*OWN, "--bits", "w4a8", "--out", "."], r"is there already; name another folder"),
        ([*OWN, "--bits", "w4a8", "--bank", "nowhere"], "nowhere"),
        (["builtin:digits_resnet", "--bits", "w4a8"], "has no weights yet; give --weights"),
    ],
)
def test_what_is_wrong_is_one_line_before_any_work(mine, hast_here, arguments, message):
    said = hast_here("quantize", *arguments, code=2).stderr
    assert message in said
    assert "synthesize:" not in said
    assert not Path("packed").exists()


def test_where_nothing_holds_the_nearest_is_named(teacher, spec):
    bank = hast.synthesize(teacher, spec, samples=16, steps=2, batch_size=8, progress=False)
    with refused(r"none of 2 candidates holds; w\da8 comes nearest"):
        hast.quantize_within(
            teacher, spec, bank, max_drop=0.2, attempts=2, drop=lambda student: (0.5, 0.1),
            steps=1, batch_size=8, progress=False,
        )  # fmt: skip


@pytest.mark.parametrize("recipe", ["hast", "best"])
@pytest.mark.parametrize("side", [32, 224])
def test_more_minutes_are_more_images_and_steps_and_no_more_work_than_there_is(recipe, side):
    values = own_network(
        teacher={}, input_shape=(3, side, side), macs=4 * 10**8, data_root=None, bit_widths=[],
        recipe=recipe,
    )  # fmt: skip
    known = {name: section for name, section in values.items() if isinstance(section, dict)}

    def work(sizes) -> float:
        pixels, training = sizes["synthesize"], sizes["quantize"]
        blocks, ranges = sizes["reconstruct"], sizes["calibrate"]
        total = 3 * pixels["samples"] * pixels["steps"]
        total += ranges["batches"] * ranges["batch_size"]
        total += 3 * blocks["steps"] * blocks["batch_size"]
        return total + 10 * training["steps"] * training["batch_size"]

    amounts = [work(sizes_within(known, passes, units=20)) for passes in (1e5, 1e6, 1e7, 1e9)]
    assert amounts == sorted(amounts)
    for amount, passes in zip(amounts[:3], (1e5, 1e6, 1e7), strict=True):
        assert 0.2 * passes < amount < 1.1 * passes or recipe == "best"
        assert amount < 1.1 * passes
    sized = merged([known, sizes_within(known, 1e6, units=20)])
    assert sized["synthesize"]["bns"] == known["synthesize"]["bns"]
