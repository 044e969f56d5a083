"""A folder of pictures as a bank: what is stored, and what is refused."""

import copy
import hashlib
import json
import shutil

import pytest
import torch
from conftest import files, refused, spec_of
from pictures import make_pictures
from students import warm_classifier
from torchvision.datasets.folder import IMG_EXTENSIONS

import hast
from hast.bank.facts import bank_facts, facts_rows
from hast.bank.stored import StoredBank
from hast.bank.tools import filter_bank, merge_banks
from hast.files.pictures import SUFFIXES, PictureFiles, pictures_in
from hast.files.teachers import save_teacher

SOURCE = "torchvision:shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def known():
    """A classifier with BatchNorm and its spec."""
    return warm_classifier(SOURCE, {}, (3, 32, 32))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("pictures"), 70)


@pytest.fixture
def saved(known, tmp_path):
    """The classifier as a folder."""
    save_teacher(tmp_path / "teacher", *known, SOURCE, {"num_classes": 10})
    return tmp_path / "teacher"


def imported(pictures, out, known, **options):
    return hast.import_pictures(pictures, out, *known, progress=False, **options)


def test_the_suffixes_are_torchvisions():
    assert SUFFIXES == IMG_EXTENSIONS


@pytest.mark.parametrize(("dtype", "error"), [("uint8", 0.02), ("float16", 2e-3), ("float32", 0)])
def test_pictures_are_stored_in_the_order_of_their_names(pictures, known, tmp_path, dtype, error):
    bank = imported(pictures, tmp_path / "bank", known, dtype=dtype, crop_fraction=0.875)
    assert isinstance(bank, StoredBank)
    expected = torch.cat([*PictureFiles(pictures_in(pictures), known[1], 0.875, 16)])
    assert (bank.images[:] - expected).abs().max() <= error
    names = [path.relative_to(pictures).as_posix() for path in pictures_in(pictures)]
    assert names == sorted(names)
    assert len(names) == len(bank) == 70


def test_labels_and_difficulty_are_the_teachers_of_the_stored_pixels(pictures, known, tmp_path):
    bank = imported(pictures, tmp_path / "bank", known)
    probability, answer = known[0](bank.images[:]).softmax(1).max(1)
    assert torch.equal(bank.labels, answer)
    assert torch.allclose(bank.difficulty, 1 - probability, atol=1e-5)
    assert bank.bns_gap is not None
    assert bank.bns_gap.isfinite().all()


def test_the_card_says_what_was_imported_and_no_path(pictures, known, tmp_path):
    card = imported(pictures, tmp_path / "bank", known, crop_fraction=0.9).card
    digest = hashlib.sha256()
    for path in pictures_in(pictures):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    assert card.synthesis == {}
    assert card.derived.model_dump() == {
        "operation": "import",
        "parameters": {"crop_fraction": 0.9, "pictures": 70, "sha256": digest.hexdigest()},
        "parents": (),
    }
    assert str(pictures) not in card.model_dump_json()


def test_the_same_pictures_give_the_same_bytes_wherever_they_are(pictures, known, tmp_path):
    imported(pictures, tmp_path / "one", known)
    moved = shutil.copytree(pictures, tmp_path / "moved")
    imported(moved, tmp_path / "two", known)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_the_command_makes_that_bank_or_replaces_one(pictures, known, saved, hast_here, tmp_path):
    imported(pictures, tmp_path / "expected", known, crop_fraction=0.875)
    out = tmp_path / "bank"
    command = ["bank", "import", str(pictures), str(out), "--teacher", str(saved)]
    assert hast_here(*command).stdout == f"{out}: 70 samples\n"
    hast_here(*command, code=2)
    hast_here(*command, "--crop-fraction", "0.875", "--overwrite")
    assert files(out) == files(tmp_path / "expected")
    info = json.loads(hast_here("bank", "info", "--json", str(out)).stdout)
    assert info["derived"]["parameters"]["pictures"] == 70
    hast_here("bank", "verify", str(out), "--teacher", str(saved))


def test_pictures_and_synthetic_samples_merge_and_the_import_is_known(pictures, known, tmp_path):
    own = imported(pictures, tmp_path / "pictures", known)
    made = hast.synthesize(*known, samples=4, steps=1, batch_size=4, progress=False)
    hast.save_bank(made, tmp_path / "synthetic")
    filter_bank(tmp_path / "pictures", tmp_path / "some", count=10)
    card = merge_banks([tmp_path / "synthetic", tmp_path / "some"], tmp_path / "both")
    both = StoredBank(tmp_path / "both")
    assert (card.samples, both.card) == (14, card)
    assert torch.equal(both.images[4:], own.images[:10])
    assert torch.equal(both.difficulty[:4], made.difficulty)
    assert [parent.synthesis.get("steps") for parent in card.derived.parents] == [1, None]
    assert card.pictures() == (own.card.derived.parameters,)
    assert "pictures" not in card.derived.parents[0].model_dump()
    rows = facts_rows(bank_facts(both))
    assert any(own.card.derived.parameters["sha256"] in text for _, text in rows)


def test_what_cannot_be_imported_ends_in_one_line(pictures, known, saved, hast_refuses, tmp_path):
    spoilt = shutil.copytree(pictures, tmp_path / "spoilt")
    (spoilt / "b/deep/010.png").write_bytes(b"no picture")
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    for folder, target, teacher, line in (
        (tmp_path / "empty", "bank", saved, "empty: holds no pictures"),
        (tmp_path / "nowhere", "bank", saved, "nowhere: holds no pictures"),
        (spoilt, "bank", saved, "010.png: not a readable image"),
        (pictures, "out", saved, "out: is there already"),
        (pictures, "bank", tmp_path / "gone", "gone"),
    ):
        places = [str(folder), str(tmp_path / target), "--teacher", str(teacher)]
        assert line in hast_refuses("bank", "import", *places)
    assert {path.name for path in tmp_path.iterdir()} == {"spoilt", "empty", "out", "teacher"}


def test_pictures_have_one_or_three_channels(pictures, tmp_path):
    network, spec = warm_classifier(SOURCE, {}, (3, 32, 32))
    two = spec_of((2, 32, 32))
    network.conv1[0] = torch.nn.Conv2d(2, 24, 3, stride=2)
    with refused("images have 1 or 3 channels but the teacher expects 2"):
        imported(pictures, tmp_path / "bank", (network, two))
    with refused(r"import_pictures\.crop_fraction: .* got 1\.5"):
        imported(pictures, tmp_path / "bank", (network, spec), crop_fraction=1.5)
    assert not [*tmp_path.iterdir()]


def test_answers_that_are_no_numbers_leave_no_bank(pictures, known, tmp_path):
    network, spec = copy.deepcopy(known[0]), known[1]
    network.fc.bias.data.fill_(torch.nan)
    with refused("answers NaN"):
        imported(pictures, tmp_path / "bank", (network, spec))
    network.fc.bias.data.zero_()
    network.fc.register_forward_hook(  # not of the two images on which networks are tried
        lambda _module, _args, logits: torch.cat([logits[:2], logits[2:] * torch.nan])
    )
    with refused(r"difficulties must lie in 0\.\.1"):
        imported(pictures, tmp_path / "bank", (network, spec))
    assert not [*tmp_path.iterdir()]


def test_large_banks_have_several_shards(known, tmp_path):
    pictures = make_pictures(tmp_path / "pictures", 300, side=8)
    bank = imported(pictures, tmp_path / "bank", known)
    assert len(bank.shards()) == 5
    expected = torch.cat([*PictureFiles(pictures_in(pictures), known[1], 1.0, 300)])
    assert (bank.images[:] - expected).abs().max() < 0.02
    assert torch.equal(bank.labels, known[0](bank.images[:]).argmax(1))
