"""A bank as other toolkits take it."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from banks import bank_for, noise_bank
from conftest import refused
from own_network import run
from PIL import Image

from hast.bank.stored import StoredBank
from hast.bank.toolkits import CalibrationReader, export_bank
from hast.bank.tools import save_bank


@pytest.fixture
def bank(tmp_path):
    save_bank(noise_bank(10, (3, 8, 8)), tmp_path / "bank")
    return StoredBank(tmp_path / "bank")


def seen(picture: Path) -> np.ndarray:
    with Image.open(picture) as image:
        return np.asarray(image)


@pytest.mark.parametrize(
    ("inputs", "dtype", "largest"), [("pixels", "f4", 1), ("bytes", "u1", 255)]
)
def test_batches_are_what_the_model_takes(bank, inputs, dtype, largest):
    batches = [*CalibrationReader(bank, inputs=inputs, batch_size=4)]
    assert [len(batch) for batch in batches] == [4, 4, 2]
    pixels = bank.card.spec.denormalize(bank.images[:]).numpy()
    assert all(batch.dtype == dtype for batch in batches)
    assert np.abs(np.concatenate(batches) / largest - pixels).max() <= 0.51 / 255
    assert 0 <= min(batch.min() for batch in batches) < max(b.max() for b in batches) == largest


def test_a_reader_starts_anew_and_ends(bank):
    reader = CalibrationReader(bank, "x", samples=3)
    assert len(reader) == 3
    for _ in range(2):
        read = [reader.get_next() for _ in range(4)]
        assert read[3] is None
        assert np.array_equal(np.concatenate([batch["x"] for batch in read[:3]]), bank.images[:3])
        reader.rewind()
    assert [batch.shape for batch in reader] == 2 * [(1, 3, 8, 8)] + [(1, 3, 8, 8)]


@pytest.mark.filterwarnings("ignore")  # of the toolkits
@pytest.mark.parametrize("toolkit", ["ONNX Runtime", "OpenVINO", "PyTorch, PT2E", "this project"])
def test_a_toolkit_quantizes_a_teacher_with_it(tmp_path, teacher, spec, toolkit):
    """Ranges of a bank keep the answers."""
    pytest.importorskip("nncf", reason="nncf is an optional extra")
    pytest.importorskip("torchao", reason="torchao is an optional extra")
    toolkits = importlib.import_module("bench.toolkits")
    bank = bank_for(teacher, spec, 32)
    (quantized,) = [make for name, make in toolkits.TOOLKITS.items() if name.startswith(toolkit)]
    predict = quantized(toolkits.Teacher(teacher, spec, None), bank, 32, tmp_path)
    with torch.no_grad():
        expected, found = teacher(bank.images), predict(bank.images)
    assert 0 < (found - expected).abs().mean() < 0.1 * expected.std()


def test_files_hold_the_bank(bank, tmp_path):
    export_bank(bank, tmp_path / "all.npz", "npz")
    export_bank(bank, tmp_path / "all.npy", "npy", inputs="bytes")
    export_bank(bank, tmp_path / "flat", "images")
    export_bank(bank, tmp_path / "classes", "folder")
    with np.load(tmp_path / "all.npz") as stored:
        assert np.array_equal(stored["images"], bank.images[:])
        assert np.array_equal(stored["labels"], bank.labels)
    codes = np.load(tmp_path / "all.npy")
    pictures = sorted((tmp_path / "flat").iterdir())
    assert [picture.name for picture in pictures[:2]] == ["0.png", "1.png"]
    for code, picture in zip(codes, pictures, strict=True):
        assert np.array_equal(seen(picture), code.transpose(1, 2, 0))
    found = sorted(p.relative_to(tmp_path) for p in (tmp_path / "classes").glob("*/*.png"))
    assert [str(path) for path in found[:2]] == ["classes/0/0.png", "classes/0/5.png"]
    assert len(found) == 10


def test_gray_pictures(tmp_path):
    save_bank(noise_bank(2, (1, 8, 8)), tmp_path / "bank")
    export_bank(StoredBank(tmp_path / "bank"), tmp_path / "flat", "images")
    assert seen(tmp_path / "flat" / "0.png").shape == (8, 8)


def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(bank, tmp_path):
    for arguments, message in (
        (
            ["--as", "zip"],
            "must be one of npz, npy, images, folder, got 'zip'",
        ),
        (["--as", "images", "--inputs", "pixels"], "pictures hold bytes, got inputs 'pixels'"),
        (["--inputs", "floats"], "inputs must be one of normalized, pixels, bytes, got 'floats'"),
    ):
        with refused(message):
            run("bank", "export", str(bank.folder), str(tmp_path / "out"), *arguments)
        assert not (tmp_path / "out").exists()
    command = ["bank", "export", str(bank.folder), str(tmp_path / "out.npz")]
    run(*command)
    with refused("is there already and is not overwritten"):
        run(*command)
    with refused("batch_size must be at least 1, got 0"):
        CalibrationReader(bank, batch_size=0)
