"""What may be replaced by a bank: a bank, and nothing else."""

import shutil
from pathlib import Path

import pytest
from banks import noise_bank
from conftest import files, refused

from hast.bank.place import check_free
from hast.bank.stored import open_bank
from hast.bank.tools import filter_bank, merge_banks, save_bank
from hast.bank.transfer import pull_bank, push_bank

SMALL = noise_bank(20, (1, 4, 4), classes=2)


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> Path:
    save_bank(SMALL, tmp_path_factory.getbasetemp() / "small/bank")
    return tmp_path_factory.getbasetemp() / "small/bank"


def lone_web_manifest(folder: Path, bank: Path) -> None:
    (folder / "manifest.json").write_text('{"name": "my site"}')


def web_folder(folder: Path, bank: Path) -> None:
    lone_web_manifest(folder, bank)
    (folder / "index.html").write_text("hello")


def bank_with_notes(folder: Path, bank: Path) -> None:
    filter_bank(bank, folder, count=7, overwrite=True)
    (folder / "notes.txt").write_text("three weeks of work")


def folder_of_that_name(folder: Path, bank: Path) -> None:
    (folder / "bank.zarr").mkdir()
    (folder / "bank.zarr/thesis.tex").write_text("hello")


def write_all(bank: Path, target: Path):
    """Every way to write a bank over what is at `target`."""
    yield lambda: save_bank(SMALL, target, overwrite=True)
    yield lambda: filter_bank(bank, target, count=5, overwrite=True)
    yield lambda: merge_banks([bank], target, overwrite=True)
    yield lambda: list(pull_bank(str(bank), target, overwrite=True))
    yield lambda: list(push_bank(bank, str(target), overwrite=True))
    yield lambda: check_free(target, overwrite=True)  # what the stage asks before it works


@pytest.mark.parametrize(
    "fill", [web_folder, lone_web_manifest, bank_with_notes, folder_of_that_name]
)
def test_a_folder_that_is_no_bank_is_never_replaced(bank, tmp_path, fill):
    target = tmp_path / "target"
    target.mkdir()
    fill(target, bank)
    before = files(target)
    for write in write_all(bank, target):
        with refused("is no bank; only a bank is overwritten by a bank"):
            write()
        assert files(target) == before
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


def without_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def without_store(folder: Path) -> None:
    shutil.rmtree(folder / "bank.zarr")


def emptied(folder: Path) -> None:
    without_manifest(folder)
    without_store(folder)


@pytest.mark.parametrize("damage", [without_manifest, without_store, emptied])
def test_a_damaged_bank_may_be_replaced(bank, tmp_path, damage):
    target = Path(shutil.copytree(bank, tmp_path / "target"))
    damage(target)
    filter_bank(bank, target, count=5, overwrite=True)
    assert len(open_bank(target).images) == 5
