"""One cache of remote banks: killed readers, readers side by side, several banks."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from banks import noise

from hast.bank import Bank, BankCard
from hast.networks.spec import ModelSpec
from hast.storage.bank import open_bank
from hast.storage.bank_batches import BankDataset, open_stored
from hast.storage.bank_tools import filter_bank, save_bank

SPEC = ModelSpec(input_shape=(3, 16, 16), num_classes=5, mean=(0.5,) * 3, std=(0.2,) * 3)
SAMPLES = 1024


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    card = BankCard(samples=SAMPLES, spec=SPEC, teacher="a" * 64, synthesis={})
    images = noise(SAMPLES, *SPEC.input_shape)
    target = tmp_path_factory.mktemp("bank") / "bank"
    save_bank(Bank(images, torch.arange(SAMPLES) % 5, card, torch.full((SAMPLES,), 0.5)), target)
    return target


def python(code: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def cached(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


SLOW = """
import sys, time
from pathlib import Path
from hast.storage import remote
from hast.storage.bank_batches import BankDataset, open_stored
bank = open_stored(sys.argv[1], cache=Path(sys.argv[2]))
remote.BLOCK = 10_000
read = remote.Remote.read
remote.Remote.read = lambda *arguments: (time.sleep(0.05), read(*arguments))[1]
BankDataset(bank).batch([0])
"""


def test_a_reader_that_was_killed_while_it_fetched_leaves_a_good_cache(folder, tmp_path):
    url = f"file://{folder}"
    reader = python(SLOW, url, tmp_path)
    deadline = time.monotonic() + 60
    while not any(path.parent.name == "parts" and path.stat().st_size for path in cached(tmp_path)):
        assert time.monotonic() < deadline
        assert reader.poll() is None, reader.stderr.read()
        time.sleep(0.01)
    os.kill(reader.pid, signal.SIGKILL)
    reader.communicate()
    assert any(path.parent.name == "parts" for path in cached(tmp_path))
    images, _ = BankDataset(open_stored(url, cache=tmp_path)).batch([0, SAMPLES - 1])
    assert torch.equal(images, open_bank(folder).images[[0, -1]])


def test_a_file_that_is_no_part_of_the_bank_goes_when_the_cache_is_opened(folder, tmp_path):
    open_stored(f"file://{folder}", cache=tmp_path)
    (store,) = tmp_path.glob("*/bank.zarr")
    (store / "images/c.part").write_bytes(b"half")
    open_stored(f"file://{folder}", cache=tmp_path)
    assert not (store / "images/c.part").exists()


LOADER = """
import sys, torch
from pathlib import Path
from hast.storage.bank import open_bank
from hast.storage.bank_batches import BankDataset, open_stored
expected = open_bank(sys.argv[3])
bank = open_stored(sys.argv[1], cache=Path(sys.argv[2]), cache_bytes=int(sys.argv[4]))
for seed in range(2):
    order = torch.randperm(len(bank), generator=torch.Generator().manual_seed(seed)).tolist()
    loader = torch.utils.data.DataLoader(
        BankDataset(bank, held_shards=1), batch_size=128, num_workers=3, sampler=order,
    )
    images, labels = (torch.cat(parts) for parts in zip(*loader))
    assert torch.equal(images, expected.images[order]), "images"
    assert torch.equal(labels, expected.labels[order]), "labels"
"""


def test_workers_and_readers_share_a_cache_that_holds_one_shard(folder, tmp_path):
    readers = [python(LOADER, f"file://{folder}", tmp_path, folder, 1) for _ in range(2)]
    for reader in readers:
        _, errors = reader.communicate(timeout=200)
        assert reader.returncode == 0, errors


def test_a_remote_bank_can_be_sent_to_a_worker_that_was_spawned(folder, tmp_path):
    bank = pickle.loads(pickle.dumps(open_stored(f"file://{folder}", cache=tmp_path)))
    assert torch.equal(BankDataset(bank).batch([3])[0], open_bank(folder).images[3:4])


def test_the_cache_is_bounded_over_all_banks_and_touches_nothing_else(folder, tmp_path):
    cache, bound = tmp_path / "cache", 700_000
    mine = Path(shutil.copytree(folder, cache / "mine"))
    before = {path: path.read_bytes() for path in cached(mine)}
    banks = []
    for first in range(4):
        filter_bank(folder, tmp_path / f"{first}", classes=[first, 4])
        url = f"file://{tmp_path / str(first)}"
        bank = BankDataset(open_stored(url, cache=cache, cache_bytes=bound), held_shards=1)
        banks.append(bank)
        expected = open_bank(tmp_path / f"{first}").images
        for index in range(0, len(bank), 10):
            assert torch.equal(bank[index][0], expected[index])
            held = [path for path in cached(cache) if mine not in path.parents]
            assert sum(path.stat().st_size for path in held) <= bound
    assert {path: path.read_bytes() for path in cached(mine)} == before
    # A bank that lost everything in the cache fetches it again.
    expected = open_bank(tmp_path / "0").images
    assert torch.equal(banks[0].batch(list(range(len(expected))))[0], expected)


def test_banks_of_which_no_shard_is_left_go_where_their_columns_fill_the_cache(folder, tmp_path):
    for count in (100, 200, 300):
        filter_bank(folder, tmp_path / f"{count}", count=count)
        url = f"file://{tmp_path / str(count)}"
        BankDataset(open_stored(url, cache=tmp_path / "cache", cache_bytes=1)).batch([0])
    left = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert len(left) == 1
