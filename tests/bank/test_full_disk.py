"""A disk that fills up: a real small file system."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from banks import noise

from hast.bank.record import Bank, BankCard
from hast.bank.stored import open_bank
from hast.bank.tools import save_bank
from hast.bank.writer import BankWriter
from hast.config.spec import ModelSpec
from hast.errors import InputError
from hast.files.resume import CheckpointFile

SPEC = ModelSpec(input_shape=(3, 16, 16), num_classes=5, mean=(0.5,) * 3, std=(0.2,) * 3)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"mounting a small file system is not possible here ({error})")
    if done.returncode:
        pytest.skip(f"mounting a small file system is not allowed here ({done.stderr.strip()})")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def bank(samples: int, *, seed: int) -> Bank:
    card = BankCard(samples=samples, spec=SPEC, teacher="a" * 64, synthesis={"seed": seed})
    random = torch.Generator().manual_seed(seed)
    images = noise(samples, *SPEC.input_shape, seed=seed)
    return Bank(images, torch.arange(samples) % 5, card, torch.rand(samples, generator=random))


def test_the_old_bank_stays_usable(small_disk):
    target = small_disk / "bank"
    save_bank(bank(300, seed=0), target)
    before = open_bank(target)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)") as error:
        save_bank(bank(2000, seed=1), target, overwrite=True)
    assert "\n" not in str(error.value)
    after = open_bank(target)
    assert torch.equal(after.images, before.images)
    assert after.card == before.card
    assert [p.name for p in small_disk.iterdir()] == ["bank"]
    save_bank(bank(200, seed=2), target, overwrite=True)
    assert open_bank(target).card.synthesis == {"seed": 2}


def test_shards_that_fitted_are_kept_and_the_rest_is_made_when_there_is_room(small_disk):
    samples = bank(1600, seed=0)
    writer = BankWriter(small_disk / "partial", samples.card, 64)
    shards = writer.shards()

    def write(shards):
        for shard in shards:
            writer.write(shard, samples.images[shard], samples.labels[shard])

    with pytest.raises(InputError, match="No space left on device"):
        write(shards)
    kept = [writer.is_finished(shard) for shard in shards]
    assert any(kept)
    assert not all(kept)
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    again = BankWriter(small_disk / "partial", samples.card, 64)
    with again.alone():
        assert again.missing_shards() == [s for s, k in zip(shards, kept, strict=True) if not k]
        for shard in again.missing_shards():
            again.write(shard, samples.images[shard], samples.labels[shard])
        again.seal(samples.difficulty)
        again.publish(small_disk / "bank")
    save_bank(samples, small_disk / "whole")
    assert torch.equal(
        open_bank(small_disk / "bank").images, open_bank(small_disk / "whole").images
    )


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(small_disk):
    file = CheckpointFile(small_disk / "x.safetensors", every=0)
    file.save({"a": torch.ones(10)}, {"step": 1})
    with pytest.raises(InputError, match="No space left on device"):
        file.save({"a": torch.ones(1 << 20)}, {"step": 2})
    saved = file.load()
    assert saved is not None
    assert saved.values == {"step": 1}
    assert [p.name for p in small_disk.iterdir()] == ["x.safetensors"]
