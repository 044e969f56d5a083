"""A disk that fills up: a real small file system."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from banks import noise_bank
from conftest import refused

from hast.bank.stored import open_bank
from hast.bank.tools import save_bank
from hast.bank.writer import BankWriter
from hast.files.partial import CheckpointFile

SHAPE = (3, 16, 16)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        subprocess.run(mount, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small file system cannot be mounted here ({error})")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_the_old_bank_stays_usable(small_disk):
    target = small_disk / "bank"
    save_bank(noise_bank(300, SHAPE), target)
    before = open_bank(target)
    with refused(r"cannot be written \(No space left on device\)"):
        save_bank(noise_bank(2000, SHAPE, seed=1), target, overwrite=True)
    after = open_bank(target)
    assert torch.equal(after.images, before.images)
    assert after.card == before.card
    assert [p.name for p in small_disk.iterdir()] == ["bank"]
    save_bank(noise_bank(200, SHAPE, seed=2), target, overwrite=True)
    assert open_bank(target).card.synthesis == {"seed": 2}


def test_shards_that_fitted_are_kept_and_the_rest_is_made_when_there_is_room(small_disk):
    samples = noise_bank(1600, SHAPE)
    writer = BankWriter(small_disk / "partial", samples.card, 64)

    def write(writer, shards):
        for shard in shards:
            writer.write(shard, samples.images[shard], samples.labels[shard])

    with refused("No space left on device"):
        write(writer, writer.shards())
    left = [shard for shard in writer.shards() if not writer.is_finished(shard)]
    assert 0 < len(left) < len(writer.shards())
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    again = BankWriter(small_disk / "partial", samples.card, 64)
    with again.alone():
        assert again.missing_shards() == left
        write(again, left)
        again.seal(samples.difficulty)
        again.publish(small_disk / "bank")
    save_bank(samples, small_disk / "whole")
    made, whole = (open_bank(small_disk / name).images for name in ("bank", "whole"))
    assert torch.equal(made, whole)


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(small_disk):
    file = CheckpointFile(small_disk / "x.safetensors", every=0)
    file.save({"a": torch.ones(10)}, {"step": 1})
    with refused("No space left on device"):
        file.save({"a": torch.ones(1 << 20)}, {"step": 2})
    saved = file.load()
    assert saved is not None
    assert saved.values == {"step": 1}
    assert [p.name for p in small_disk.iterdir()] == ["x.safetensors"]
