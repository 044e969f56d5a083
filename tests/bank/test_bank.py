from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from banks import TEACHER, noise_bank
from conftest import files, refused

from hast.bank.stored import StoredBank, open_bank
from hast.bank.writer import BankWriter

BANK = noise_bank(2600, (3, 4, 4))
CARD = BANK.card.model_copy(update={"dtype": "float32"})
IMAGES = torch.randn(2600, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def writer_in(folder: Path, card=CARD, batch_size=100) -> BankWriter:
    return BankWriter(folder / "partial", card, batch_size)


def write_shards(writer: BankWriter, shards: list[slice]) -> None:
    for shard in shards:
        writer.write(shard, IMAGES[shard], BANK.labels[shard])


def publish(writer: BankWriter, folder: Path) -> Path:
    writer.seal(BANK.difficulty)
    writer.publish(folder / "bank")
    return folder / "bank"


def written(folder: Path, *, order=None, **card) -> Path:
    writer = writer_in(folder, CARD.model_copy(update=card))
    shards = writer.shards()
    write_shards(writer, [shards[i] for i in order or range(len(shards))])
    return publish(writer, folder)


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0), ("float16", 2e-3), ("uint8", 2e-2)])
def test_what_was_written_is_read_back(tmp_path, dtype, error):
    bank = open_bank(written(tmp_path, dtype=dtype), teacher=TEACHER)
    assert (bank.images - IMAGES).abs().max() <= error
    assert bank.images.dtype == torch.float32
    assert torch.equal(bank.labels, BANK.labels)
    assert torch.equal(bank.difficulty, BANK.difficulty)
    assert bank.card == CARD.model_copy(update={"dtype": dtype})


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("float16", 2), ("uint8", 1)])
def test_images_left_in_their_files_are_the_same_however_they_are_taken(tmp_path, dtype, size):
    folder = written(tmp_path, dtype=dtype)
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
    assert held.nbytes == len(expected) * 48 * size
    before = files(folder)
    pixels[:10].zero_()
    assert files(folder) == before


def test_a_bank_is_a_handful_of_files_and_readable_with_plain_zarr(tmp_path):
    bank = written(tmp_path)
    assert len(files(bank)) <= 14  # 5 shards of images, 2 other arrays, 4 metadata files, manifest
    group = zarr.open(bank / "bank.zarr", mode="r")
    assert np.array_equal(group["images"][:], IMAGES.numpy())
    assert group.attrs["format"] == "hast-bank"


def test_the_same_content_gives_the_same_bytes_in_any_order(tmp_path):
    first = files(written(tmp_path / "a"))
    assert files(written(tmp_path / "b", order=[2, 0, 1, 4, 3])) == first


def test_finished_shards_of_an_interrupted_run_are_kept_and_what_was_half_written_is_not(tmp_path):
    killed = writer_in(tmp_path)
    write_shards(killed, [killed.shards()[1]])
    (store,) = (tmp_path / "partial").glob("*/bank/bank.zarr")
    (store / "images/c/0.abc.partial").write_bytes(b"half")

    again = writer_in(tmp_path)
    assert [again.is_finished(s) for s in again.shards()] == [False, True, False, False, False]
    with again.alone():
        write_shards(again, again.missing_shards())
    assert files(publish(again, tmp_path)) == files(written(tmp_path / "whole"))


def test_a_second_run_of_the_same_bank_is_refused_while_the_first_one_lasts(tmp_path):
    first, second = (writer_in(tmp_path) for _ in range(2))
    with first.alone(), refused("another process is making this bank"), second.alone():
        pass
    with second.alone():
        pass


def test_other_parameters_never_continue_a_partial_bank(tmp_path):
    writer = writer_in(tmp_path)
    write_shards(writer, writer.shards())
    other = writer_in(tmp_path, CARD.model_copy(update={"synthesis": {"seed": 1}}))
    assert not any(map(other.is_finished, other.shards()))


def test_a_bank_of_zeros_still_counts_its_shards(tmp_path):
    writer = writer_in(tmp_path)
    for shard in writer.shards():
        writer.write(shard, torch.zeros_like(IMAGES[shard]), BANK.labels[shard])
        assert writer.is_finished(shard)
    assert not open_bank(publish(writer, tmp_path)).images.any()


@pytest.mark.parametrize("batch_size", [2, 7, 64, 257, 1024, 3000])
def test_shards_hold_whole_batches_and_cover_every_sample(tmp_path, batch_size):
    writer = writer_in(tmp_path, batch_size=batch_size)
    shards = writer.shards()
    assert (shards[0].start, shards[-1].stop) == (0, CARD.samples)
    assert all(a.stop == b.start for a, b in pairwise(shards))
    batches = [i for s in shards for i in writer.batches(s)]
    assert batches == [*range(-(-CARD.samples // batch_size))]


@pytest.mark.parametrize("pixel", [torch.nan, torch.inf])
def test_what_is_not_finite_is_never_written(tmp_path, pixel):
    writer = writer_in(tmp_path)
    shard = writer.shards()[0]
    images = IMAGES[shard].clone()
    images[0, 0, 0, 0] = pixel
    with refused("must be finite"):
        writer.write(shard, images, BANK.labels[shard])
    assert not writer.is_finished(shard)
