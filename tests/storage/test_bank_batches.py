"""Reading a bank while training, from memory, shard by shard and from a URL."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from banks import noise

from hast.bank import Bank, BankCard
from hast.errors import InputError
from hast.networks.spec import ModelSpec
from hast.storage.bank import open_bank
from hast.storage.bank_batches import BankBatches, BankDataset, open_stored
from hast.storage.bank_tools import save_bank

SPEC = ModelSpec(input_shape=(3, 8, 8), num_classes=4, mean=(0.5,) * 3, std=(0.2,) * 3)
SAMPLES = 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    card = BankCard(samples=SAMPLES, spec=SPEC, teacher="a" * 64, synthesis={"batch_size": 50})
    images = noise(SAMPLES, *SPEC.input_shape)
    labels = (torch.arange(SAMPLES) % 10).clamp(max=3)  # class 3 has seven of ten
    difficulty = torch.where(torch.arange(SAMPLES) % 2 == 0, 0.01, 0.9)
    target = tmp_path_factory.mktemp("bank") / "bank"
    save_bank(Bank(images, labels, card, difficulty), target)
    return target


@pytest.fixture(scope="module")
def whole(folder) -> Bank:
    return open_bank(folder)


def index_of(images, whole: Bank) -> list[int]:
    """Where in the bank each image stands."""
    place = {image.numpy().tobytes(): i for i, image in enumerate(whole.images)}
    return [place[image.numpy().tobytes()] for image in images]


def drawn(batches, whole: Bank) -> list[int]:
    """Samples of some batches, with their labels checked."""
    found = []
    for images, labels in batches:
        index = index_of(images, whole)
        assert torch.equal(labels, whole.labels[index])
        found += index
    return found


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_single_samples_are_those_of_the_bank(folder, whole):
    dataset = BankDataset(open_stored(folder))
    assert len(dataset) == SAMPLES
    for i in (0, 7, SAMPLES - 1):
        image, label = dataset[i]
        assert torch.equal(image, whole.images[i])
        assert label == whole.labels[i]


def test_a_loader_of_torch_can_read_it(folder, whole):
    loader = torch.utils.data.DataLoader(BankDataset(open_stored(folder)), batch_size=64)
    images, labels = next(iter(loader))
    assert torch.equal(images, whole.images[:64])
    assert torch.equal(labels, whole.labels[:64])


@pytest.mark.parametrize("held", [None, 2])
def test_an_epoch_shows_every_sample_once_in_a_seeded_order(folder, whole, held):
    dataset = BankDataset(open_stored(folder), held_shards=held)
    batches = BankBatches(dataset, batch_size=50, seed=3)
    first = drawn(batches.epoch(0), whole)
    assert sorted(first) == list(range(SAMPLES))
    assert first != sorted(first)
    assert drawn(batches.epoch(0), whole) == first
    assert drawn(batches.epoch(1), whole) != first
    assert drawn(BankBatches(dataset, batch_size=50, seed=4).epoch(0), whole) != first
    assert drawn(islice(batches, 25), whole)[:SAMPLES] == first


def test_a_bank_that_does_not_fit_reads_each_shard_about_once(folder, monkeypatch):
    bank = open_stored(folder)
    read = []
    original = bank.stored
    monkeypatch.setattr(bank, "stored", lambda rows: read.append(rows.start) or original(rows))
    dataset = BankDataset(bank, held_shards=2)
    for _ in BankBatches(dataset, batch_size=64).epoch(0):
        assert len(dataset._held) <= 2
    assert len(read) == len(dataset.shards) >= 4


def test_hard_samples_come_more_often_and_classes_equally_when_asked(folder, whole):
    dataset = BankDataset(open_stored(folder))
    hard = drawn(BankBatches(dataset, batch_size=100, sampling="difficulty").epoch(0), whole)
    assert len(hard) == SAMPLES
    assert whole.difficulty[hard].mean() > 0.85
    for sampling in ("uniform", "difficulty"):
        batches = BankBatches(dataset, batch_size=100, sampling=sampling, balanced=True)
        labels = torch.cat([y for _, y in batches.epoch(0)])
        assert torch.bincount(labels, minlength=4).min() > 200


def test_a_batch_larger_than_the_bank_is_refused(folder):
    with pytest.raises(InputError, match=r"batch_size must lie in 1\.\.1000, got 1001"):
        BankBatches(BankDataset(open_stored(folder)), batch_size=1001)


def test_negative_samples_count_from_the_end(folder, whole):
    dataset = BankDataset(open_stored(folder))
    for i in (-1, -249, -250, -251, -SAMPLES):
        image, label = dataset[i]
        assert torch.equal(image, whole.images[i])
        assert label == whole.labels[i]
    images, labels = dataset.batch(torch.tensor([-1, 0, -SAMPLES]))
    assert torch.equal(images, whole.images[[-1, 0, 0]])
    assert torch.equal(labels, whole.labels[[-1, 0, 0]])


@pytest.mark.parametrize("index", [SAMPLES, -SAMPLES - 1, 10**9])
def test_a_sample_that_is_not_there_is_an_index_error(folder, index):
    with pytest.raises(IndexError, match=r"must lie in -1000\.\.999"):
        BankDataset(open_stored(folder)).batch([0, index])


def test_a_misspelled_sampling_is_refused(folder):
    dataset = BankDataset(open_stored(folder))
    with pytest.raises(InputError, match="sampling must be uniform or difficulty, got 'dificulty'"):
        BankBatches(dataset, batch_size=4, sampling="dificulty")


@pytest.mark.parametrize("held", [0, -1])
def test_no_held_shard_is_refused(folder, held):
    with pytest.raises(InputError, match=f"held_shards must be at least 1, got {held}"):
        BankDataset(open_stored(folder), held_shards=held)


def test_a_url_is_read_through_a_cache_that_stays_small(folder, whole, tmp_path):
    url = f"file://{folder}"
    size = max(p.stat().st_size for p in (folder / "bank.zarr/images/c").rglob("*") if p.is_file())
    rest = size_of(folder) - size_of(folder / "bank.zarr/images/c")
    bank = open_stored(url, cache=tmp_path, cache_bytes=rest + 2 * size)
    dataset = BankDataset(bank, held_shards=1)
    cached = []
    found = []
    for images, _ in BankBatches(dataset, batch_size=50).epoch(0):
        found += index_of(images, whole)
        cached.append(len([p for p in tmp_path.rglob("images/c/**/*") if p.is_file()]))
    assert sorted(found) == list(range(SAMPLES))
    assert max(cached) == 2
    again = open_stored(url, cache=tmp_path, cache_bytes=rest + 2 * size)
    assert torch.equal(BankDataset(again).batch([1, 2])[0], whole.images[1:3])


def test_a_shard_that_is_damaged_at_the_far_end_is_refused_when_it_arrives(folder, tmp_path):
    import shutil

    far = Path(shutil.copytree(folder, tmp_path / "far"))
    shard = next(p for p in sorted((far / "bank.zarr/images/c").rglob("*")) if p.is_file())
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    dataset = BankDataset(open_stored(f"file://{far}", cache=tmp_path / "cache"))
    with pytest.raises(InputError, match="differs from its hash in the manifest"):
        dataset.batch([0])
