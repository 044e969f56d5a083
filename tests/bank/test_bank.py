from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from hast.bank.record import BankCard
from hast.bank.stored import StoredBank, open_bank
from hast.bank.writer import BankWriter
from hast.config.spec import ModelSpec
from hast.errors import InputError

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


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_images_left_in_their_files_are_the_same_however_they_are_taken(tmp_path, dtype):
    folder = write(tmp_path, card=CARD.model_copy(update={"dtype": dtype}))
    expected, pixels = open_bank(folder).images, StoredBank(folder).images
    held = pixels.to(torch.device("cpu"))
    shuffled = torch.randperm(len(expected))[:300]
    bright = expected[:, 0, 0, 0] > 1
    for taken in (pixels, held):
        assert (len(taken), taken.shape) == (len(expected), expected.shape)
        for index in (slice(None), slice(500, 700), shuffled, [2599, 0, -1], 7, -2600, [], bright):
            assert torch.equal(taken[index], expected[index])
        assert all(map(torch.equal, taken.split(999), expected.split(999)))
        with pytest.raises(IndexError):
            taken[2600]
    assert held.nbytes == len(expected) * 48 * {"float32": 4, "float16": 2, "uint8": 1}[dtype]


def test_images_left_in_their_files_are_never_written_to(tmp_path):
    folder = write(tmp_path)
    before = files(folder)
    StoredBank(folder).images[:10].zero_()
    assert files(folder) == before


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


def test_a_second_run_of_the_same_bank_is_refused_while_the_first_one_lasts(tmp_path):
    first, second = (BankWriter(tmp_path / "partial", CARD, BATCH) for _ in range(2))
    with (
        first.alone(),
        pytest.raises(InputError, match="another process is making this bank"),
        second.alone(),
    ):
        pass
    with second.alone():
        pass


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
