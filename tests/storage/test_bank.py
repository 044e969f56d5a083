import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from hast.bank import BankCard
from hast.errors import InputError
from hast.networks.spec import ModelSpec
from hast.storage.bank import BankWriter, open_bank

SPEC = ModelSpec(input_shape=(3, 4, 4), num_classes=5, mean=(0.5,) * 3, std=(0.2,) * 3)
TEACHER = "a" * 64
CARD = BankCard(samples=2600, spec=SPEC, teacher=TEACHER, synthesis={"seed": 0})
BATCH = 100


def content(card=CARD):
    random = torch.Generator().manual_seed(0)
    images = torch.randn(card.samples, *SPEC.input_shape, generator=random)
    return images, torch.arange(card.samples) % SPEC.num_classes


def write(folder: Path, *, order=None, card=CARD) -> Path:
    writer = BankWriter(folder / "partial", card, BATCH)
    images, labels = content(card)
    shards = writer.shards()
    for i in order or range(len(shards)):
        writer.write(shards[i], images[shards[i]], labels[shards[i]])
    writer.seal()
    writer.publish(folder / "bank")
    return folder / "bank"


def files(bank: Path) -> dict[str, bytes]:
    return {str(p.relative_to(bank)): p.read_bytes() for p in bank.rglob("*") if p.is_file()}


def test_what_was_written_is_read_back(tmp_path):
    bank = open_bank(write(tmp_path), teacher=TEACHER)
    images, labels = content()
    assert torch.equal(bank.images, images)
    assert torch.equal(bank.labels, labels)
    assert bank.card == CARD


def test_mapped_images_are_the_same_and_leave_no_file(tmp_path):
    folder = write(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    bank = open_bank(folder, in_memory=False)
    assert torch.equal(bank.images, content()[0])
    assert sorted(tmp_path.rglob("*")) == before


def test_images_that_fit_neither_memory_nor_disk_are_refused_in_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(InputError, match=r"no room for .* GB of images .*No space left"):
        open_bank(write(tmp_path), in_memory=False)


def test_a_bank_is_a_handful_of_files_and_readable_with_plain_zarr(tmp_path):
    bank = write(tmp_path)
    assert len(files(bank)) <= 14  # 4 to 5 shards of each array, 3 metadata files, the manifest
    group = zarr.open(bank / "bank.zarr", mode="r")
    assert np.array_equal(group["images"][:], content()[0].numpy())
    assert group.attrs["format"] == "hast-bank"


def test_the_same_content_gives_the_same_bytes_in_any_order(tmp_path):
    first = files(write(tmp_path / "a"))
    assert files(write(tmp_path / "b", order=[2, 0, 1, 4, 3])) == first


def test_finished_shards_of_an_interrupted_run_are_kept(tmp_path):
    images, labels = content()
    killed = BankWriter(tmp_path / "partial", CARD, BATCH)
    shard = killed.shards()[1]
    killed.write(shard, images[shard], labels[shard])

    again = BankWriter(tmp_path / "partial", CARD, BATCH)
    assert [again.is_finished(s) for s in again.shards()] == [False, True, False, False, False]
    for s in again.shards():
        if not again.is_finished(s):
            again.write(s, images[s], labels[s])
    again.seal()
    again.publish(tmp_path / "bank")
    assert files(tmp_path / "bank") == files(write(tmp_path / "whole"))


def test_what_a_killed_write_left_behind_is_not_taken_for_a_part(tmp_path):
    images, labels = content()
    killed = BankWriter(tmp_path / "partial", CARD, BATCH)
    (store,) = (tmp_path / "partial").glob("*/bank.zarr")
    (store / "images/c").mkdir()
    (store / "images/c/0.abc.partial").write_bytes(b"half")
    again = BankWriter(tmp_path / "partial", CARD, BATCH)
    for shard in again.shards():
        again.write(shard, images[shard], labels[shard])
    again.seal()
    again.publish(tmp_path / "bank")
    assert killed.shard_size == again.shard_size
    assert files(tmp_path / "bank") == files(write(tmp_path / "whole"))


def test_other_parameters_never_continue_a_partial_bank(tmp_path):
    images, labels = content()
    writer = BankWriter(tmp_path / "partial", CARD, BATCH)
    shard = writer.shards()[0]
    writer.write(shard, images[shard], labels[shard])
    other = BankWriter(
        tmp_path / "partial", CARD.model_copy(update={"synthesis": {"seed": 1}}), BATCH
    )
    assert not any(map(other.is_finished, other.shards()))


def test_a_bank_of_zeros_still_counts_its_shards(tmp_path):
    card = CARD.model_copy(update={"samples": 200})
    writer = BankWriter(tmp_path / "partial", card, BATCH)
    zeros = torch.zeros(200, *SPEC.input_shape)
    for shard in writer.shards():
        writer.write(shard, zeros[shard], torch.zeros(len(zeros[shard]), dtype=torch.int64))
        assert writer.is_finished(shard)
    writer.seal()
    writer.publish(tmp_path / "bank")
    assert torch.equal(open_bank(tmp_path / "bank").images, zeros)


@pytest.mark.parametrize("batch_size", [2, 7, 64, 257, 1024, 3000])
def test_shards_hold_whole_batches_and_cover_every_sample(tmp_path, batch_size):
    writer = BankWriter(tmp_path, CARD, batch_size)
    shards = writer.shards()
    assert shards[0].start == 0
    assert shards[-1].stop == CARD.samples
    assert all(a.stop == b.start for a, b in pairwise(shards))
    batches = [i for s in shards for i in writer.batches(s)]
    assert batches == list(range(-(-CARD.samples // batch_size)))


def edit_json(path: Path, change) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def declare_much(array: dict) -> None:
    array["shape"][2:] = [40_000, 40_000]
    array["chunk_grid"]["configuration"]["chunk_shape"][2:] = [40_000, 40_000]


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


HOSTILE = {
    "another format": (
        lambda s: edit_json(s / "zarr.json", lambda v: v["attributes"].update(format="x")),
        "not a hast-bank",
    ),
    "a newer version": (
        lambda s: edit_json(s / "zarr.json", lambda v: v["attributes"].update(version=2)),
        "bank version 2 is not known",
    ),
    "a malformed card": (
        lambda s: edit_json(s / "zarr.json", lambda v: v["attributes"].pop("teacher")),
        r"attribute \('teacher',\)",
    ),
    "a flipped byte": (lambda s: flip_a_byte(s / "images/c/1/0/0/0"), r"1 file\(s\) changed"),
    "a missing shard": (
        lambda s: (s / "images/c/1/0/0/0").unlink(),
        r"images: 1 shard\(s\) missing, first c/1/0/0/0",
    ),
    "an extra file": (lambda s: (s / "x").write_text(""), r"1 file\(s\) not in the manifest"),
    "a link": (lambda s: (s / "x").symlink_to("/etc/passwd"), "must not hold links"),
    "a huge declared shape": (
        lambda s: edit_json(s / "images/zarr.json", declare_much),
        "declares .* bytes but stores",
    ),
    "another data type": (
        lambda s: edit_json(s / "images/zarr.json", lambda v: v.update(data_type="float64")),
        "data type must be float32, got 'float64'",
    ),
    "negative dimensions": (
        lambda s: edit_json(s / "images/zarr.json", lambda v: v.update(shape=[-1, 3, 4, 4])),
        "must have 4 positive dimensions",
    ),
    "an unknown codec": (
        lambda s: edit_json(s / "labels/zarr.json", lambda v: v["codecs"].append({"name": "evil"})),
        r"codecs \['evil'\] are not allowed",
    ),
    "a Zarr v2 array": (
        lambda s: edit_json(s / "labels/zarr.json", lambda v: v.update(zarr_format=2)),
        "must describe a Zarr v3 node",
    ),
    "no JSON": (lambda s: (s / "zarr.json").write_text("{"), "cannot be read"),
    "no manifest": (lambda s: (s.parent / "manifest.json").unlink(), "manifest.json: cannot be"),
    "no images": (lambda s: shutil.rmtree(s / "images"), "cannot be read"),
}


@pytest.mark.parametrize(("damage", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_damaged_or_hostile_bank_is_refused(tmp_path, damage, message):
    bank = write(tmp_path)
    damage(bank / "bank.zarr")
    with pytest.raises(InputError, match=message) as error:
        open_bank(bank)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images, labels: images[0, 0, 0, 0].fill_(torch.nan), "must be finite"),
        (lambda images, labels: labels[3].fill_(5), r"must lie in 0\.\.4, they span 0\.\.5"),
        (lambda images, labels: labels[3].fill_(-1), r"they span -1\.\.4"),
    ],
)
def test_bad_content_with_a_good_manifest_is_refused(tmp_path, change, message):
    writer = BankWriter(tmp_path / "partial", CARD, BATCH)
    images, labels = content()
    change(images, labels)
    for shard in writer.shards():
        writer.write(shard, images[shard], labels[shard])
    writer.seal()
    writer.publish(tmp_path / "bank")
    with pytest.raises(InputError, match=message):
        open_bank(tmp_path / "bank")


def test_a_bank_for_another_teacher_is_refused_with_both_fingerprints(tmp_path):
    bank = write(tmp_path)
    with pytest.raises(InputError, match=f"{TEACHER}.*{'b' * 64}"):
        open_bank(bank, teacher="b" * 64)


def test_no_bank_is_said_plainly(tmp_path):
    with pytest.raises(InputError, match="no such bank; run `dvc repro synthesize`"):
        open_bank(tmp_path)
