from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from hast.bank import BankCard
from hast.errors import InputError
from hast.networks.spec import ModelSpec
from hast.storage.bank import open_bank
from hast.storage.bank_writer import BankWriter

SPEC = ModelSpec(input_shape=(3, 4, 4), num_classes=5, mean=(0.5,) * 3, std=(0.2,) * 3)
TEACHER = "a" * 64
CARD = BankCard(samples=2600, spec=SPEC, teacher=TEACHER, synthesis={"seed": 0}, dtype="float32")
BATCH = 100


def content(card=CARD):
    random = torch.Generator().manual_seed(0)
    images = torch.randn(card.samples, *SPEC.input_shape, generator=random)
    return images, torch.arange(card.samples) % SPEC.num_classes


def difficulty(card=CARD):
    return torch.linspace(0, 1, card.samples)


def write(folder: Path, *, order=None, card=CARD) -> Path:
    writer = BankWriter(folder / "partial", card, BATCH)
    images, labels = content(card)
    shards = writer.shards()
    for i in order or range(len(shards)):
        writer.write(shards[i], images[shards[i]], labels[shards[i]])
    writer.seal(difficulty(card))
    writer.publish(folder / "bank")
    return folder / "bank"


def files(bank: Path) -> dict[str, bytes]:
    return {str(p.relative_to(bank)): p.read_bytes() for p in bank.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0), ("float16", 2e-3), ("uint8", 2e-2)])
def test_what_was_written_is_read_back(tmp_path, dtype, error):
    card = CARD.model_copy(update={"dtype": dtype})
    bank = open_bank(write(tmp_path, card=card), teacher=TEACHER)
    images, labels = content()
    assert (bank.images - images).abs().max() <= error
    assert bank.images.dtype == torch.float32
    assert torch.equal(bank.labels, labels)
    assert torch.equal(bank.difficulty, difficulty())
    assert bank.card == card


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
    assert len(files(bank)) <= 14  # 5 shards of images, 2 other arrays, 4 metadata files, manifest
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
    again.seal(difficulty())
    again.publish(tmp_path / "bank")
    assert files(tmp_path / "bank") == files(write(tmp_path / "whole"))


def test_what_a_killed_write_left_behind_is_not_taken_for_a_part(tmp_path):
    images, labels = content()
    killed = BankWriter(tmp_path / "partial", CARD, BATCH)
    (store,) = (tmp_path / "partial").glob("*/bank/bank.zarr")
    (store / "images/c").mkdir()
    (store / "images/c/0.abc.partial").write_bytes(b"half")
    again = BankWriter(tmp_path / "partial", CARD, BATCH)
    with again.alone():
        for shard in again.shards():
            again.write(shard, images[shard], labels[shard])
    again.seal(difficulty())
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
    writer.seal(torch.zeros(200))
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


@pytest.mark.parametrize("pixel", [torch.nan, torch.inf])
def test_what_is_not_finite_is_never_written(tmp_path, pixel):
    writer = BankWriter(tmp_path / "partial", CARD, BATCH)
    images, labels = content()
    images[0, 0, 0, 0] = pixel
    shard = writer.shards()[0]
    with pytest.raises(InputError, match="must be finite"):
        writer.write(shard, images[shard], labels[shard])
    assert not writer.is_finished(shard)


def test_no_bank_is_said_plainly(tmp_path):
    with pytest.raises(InputError, match="no such bank; run `dvc repro synthesize`"):
        open_bank(tmp_path)
