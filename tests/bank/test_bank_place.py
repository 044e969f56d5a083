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


SITE = '{"name": "my site"}'
# Whether there is another bank, and files that are no part of one.
PLACES = {
    "a web folder": (False, {"manifest.json": SITE, "index.html": "hello"}),
    "a lone web manifest": (False, {"manifest.json": SITE}),
    "a bank with notes": (True, {"notes.txt": "three weeks of work"}),
    "a folder of that name": (False, {"bank.zarr/thesis.tex": "hello"}),
}


def write_all(bank: Path, target: Path):
    """Every way to write a bank over what is at `target`."""
    yield lambda: save_bank(SMALL, target, overwrite=True)
    yield lambda: filter_bank(bank, target, count=5, overwrite=True)
    yield lambda: merge_banks([bank], target, overwrite=True)
    yield lambda: list(pull_bank(str(bank), target, overwrite=True))
    yield lambda: list(push_bank(bank, str(target), overwrite=True))
    yield lambda: check_free(target, overwrite=True)  # what the stage asks before it works


@pytest.mark.parametrize(("is_bank", "others"), PLACES.values(), ids=PLACES.keys())
def test_a_folder_that_is_no_bank_is_never_replaced(bank, tmp_path, is_bank, others):
    target = tmp_path / "target"
    if is_bank:
        filter_bank(bank, target, count=7)
    for name, text in others.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(text)
    before = files(target)
    for write in write_all(bank, target):
        with refused("is no bank; only a bank is overwritten by a bank"):
            write()
        assert files(target) == before
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize("left", ["bank.zarr", "manifest.json", "nothing"])
def test_a_damaged_bank_may_be_replaced(bank, tmp_path, left):
    target = tmp_path / "target"
    target.mkdir()
    if left == "bank.zarr":
        shutil.copytree(bank / left, target / left)
    elif left == "manifest.json":
        shutil.copy(bank / left, target)
    filter_bank(bank, target, count=5, overwrite=True)
    assert len(open_bank(target).images) == 5
