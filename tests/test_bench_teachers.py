"""bench.teachers: what it writes is the teacher that bench.accuracy opens."""

import re

import pytest
import torch
from conftest import ROOT, python
from PIL import Image

from bench.experiment import correct_answers, open_teacher

MEAN, STD = "0.5,0.5,0.5", "0.25,0.25,0.25"


@pytest.mark.slow
def test_a_trained_teacher_is_opened_and_answers_as_it_did(tmp_path):
    random = torch.Generator().manual_seed(0)
    for split, count in (("train", 13), ("test", 4)):
        for label in range(10):
            folder = tmp_path / split / str(label)
            folder.mkdir(parents=True)
            for i in range(count):
                noise = torch.randint(-9, 10, (32, 32, 3), generator=random)
                pixels = noise + torch.tensor([10 + 25 * label, 240 - 25 * label, 128])
                Image.fromarray(pixels.byte().numpy()).save(folder / f"{i}.png")
    out = tmp_path / "vgg.safetensors"
    options = ["--images", tmp_path, "--mean", MEAN, "--std", STD, "--out", out, "--epochs", "40"]
    command = ("-m", "bench.teachers", "small_vgg", *map(str, options), "--device", "cpu")
    done = python(*command, cwd=ROOT)
    teacher = open_teacher(
        "python:bench.teachers:small_vgg", out, tmp_path, MEAN, STD, "cpu", "3x32x32"
    )
    right, _ = correct_answers(teacher.network, teacher)
    printed = re.search(r"top-1 ([\d.]+)", done.stdout)
    assert printed
    assert float(printed[1]) > 30  # a network that learned nothing has 10
    assert float(printed[1]) == pytest.approx(100 * right.double().mean().item(), abs=0.01)
