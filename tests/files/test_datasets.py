import signal
import subprocess
import threading

import pytest
import torch
from conftest import refused, spec_of, started
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from hast.config.dataset import DatasetConfig
from hast.files.datasets import load_digits_split, open_batches
from hast.networks.digits_resnet import DIGITS_SPEC


def test_the_digits_split_is_two_thirds_to_one_and_shares_no_image():
    train, test = (load_digits_split(s, DIGITS_SPEC) for s in ("train", "test"))
    assert (len(train[0]), len(test[0])) == (1198, 599)
    rows = {image.numpy().tobytes() for image in train[0]}
    assert not any(image.numpy().tobytes() in rows for image in test[0])
    counts = torch.bincount(test[1])
    assert counts.max() - counts.min() <= 4
    assert train[0].mean().abs() < 0.01
    assert (train[0].std() - 1).abs() < 0.01


@pytest.fixture
def folder(tmp_path):
    for name, value in (("cat", 0), ("dog", 255)):
        path = tmp_path / "test" / name
        path.mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (16, 12), (value,) * 3).save(path / f"{i}.png")
    return tmp_path


def folder_spec(channels=3, num_classes=2):
    return spec_of((channels, 8, 8), num_classes, std=(0.25,) * channels)


def opened(root, spec, *, crop_fraction=1.0, at_most=None):
    """Test images of a folder."""
    config = DatasetConfig(name="folder", root=root, crop_fraction=crop_fraction)
    return open_batches(config, "test", spec, at_most=at_most)


@pytest.mark.parametrize("fraction", [1.0, 0.8])
@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 5, 21), (3, 30, 9)])
def test_images_cover_the_input_without_borders(folder, shape, fraction):
    spec = spec_of(shape, 2, std=(0.25,) * 3)
    ((images, _),) = opened(folder, spec, crop_fraction=fraction)
    assert images.shape[1:] == shape
    assert torch.allclose(images[-1], torch.tensor(2.0))


def test_an_empty_class_is_named(folder):
    (folder / "test/empty").mkdir()
    with refused("empty"):
        opened(folder, folder_spec())


def test_a_dataset_that_does_not_fit_is_refused(folder, tmp_path):
    with refused("holds 2 classes but the teacher answers 3"):
        opened(folder, folder_spec(num_classes=3))
    with refused(r"must be a folder that holds"):
        opened(None, folder_spec())
    with refused("holds 1x8x8 images of 10 classes but the teacher"):
        open_batches(DatasetConfig(), "test", folder_spec())


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """600 images of two classes, no two alike, in portrait and in landscape."""
    root = tmp_path_factory.mktemp("photos")
    random = torch.Generator().manual_seed(0)
    for i in range(600):
        path = root / f"test/{'early' if i < 200 else 'late'}/{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (9 + i % 7, 15 - i % 6, 3), dtype=torch.uint8, generator=random)
        Image.fromarray(pixels.numpy()).save(path)
    return root


@pytest.fixture(params=[1, 5])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def read_with_torchvision(root, spec):
    """Image by image, in one thread."""
    channels, height, width = spec.input_shape

    def cover(image):
        scale = max(height / image.height, width / image.width)
        size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
        return image.resize(size, Image.Resampling.BILINEAR)

    steps = [
        v2.Grayscale() if channels == 1 else v2.Identity(),
        v2.Lambda(cover),
        v2.CenterCrop([height, width]),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([*spec.mean], [*spec.std]),
    ]
    images, labels = zip(*ImageFolder(str(root / "test"), v2.Compose(steps)), strict=True)
    return torch.stack(images), torch.tensor(labels)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_to_the_bit_those_of_torchvision(photos, threads, channels):
    spec = folder_spec(channels)
    batches = opened(photos, spec)
    images, labels = read_with_torchvision(photos, spec)
    for _ in range(2):
        found = [*batches]
        assert [len(y) for _, y in found] == [256, 256, 88]
        assert len(batches) == 3
        assert all(x.stride() == images.stride() for x, _ in found)  # kernels go by it
        assert torch.equal(torch.cat([x for x, _ in found]), images)
        assert torch.equal(torch.cat([y for _, y in found]), labels)


def every_nth(batches, count):
    """From all images, as exports have been compared on them so far."""
    found, step, seen = [], 0, 0
    for images, _ in batches:
        step = step or max(1, len(batches) * len(images) // count)
        found.append(images[-seen % step :: step])
        seen += len(images)
    return torch.cat(found)[:count]


@pytest.mark.parametrize("count", [1, 3, 64, 255, 256, 257, 300, 599, 600, 601, 5000])
def test_some_images_are_evenly_spaced_ones(photos, count):
    folder = DatasetConfig(name="folder", root=photos)
    for config, spec in ((folder, folder_spec()), (DatasetConfig(), DIGITS_SPEC)):
        some = open_batches(config, "test", spec, at_most=count)
        expected = every_nth(open_batches(config, "test", spec), count)
        assert torch.equal(torch.cat([x for x, _ in some]), expected)
        labels = torch.cat([y for _, y in some])
        assert len(labels) == len(expected) <= count
        assert len(labels) < 4 or len(labels.unique()) > 1


def spoil(photos, target, *, unless):
    """A copy in which images are unreadable unless their number passes."""
    for path in (photos / "test").rglob("*.png"):
        copy = target / path.relative_to(photos)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes() if unless(int(path.stem)) else b"no image")
    return target


def test_only_the_chosen_images_are_read(photos, tmp_path):
    spoilt = spoil(photos, tmp_path, unless=lambda i: i % 12 == 0)
    ((images, _),) = opened(spoilt, folder_spec(), at_most=64)  # 768 // 64 is 12
    assert len(images) == 50


def test_the_first_unreadable_image_is_named_after_the_batches_before_it(photos, tmp_path):
    spoilt = spoil(photos, tmp_path, unless=lambda i: i not in (301, 302, 599))
    batches = iter(opened(spoilt, folder_spec()))
    assert len(next(batches)[1]) == 256
    with refused(r"late/301\.png: not a readable image"):
        next(batches)


def test_no_thread_is_left_where_the_rest_is_not_wanted(photos):
    before = threading.active_count()
    batches = iter(opened(photos, folder_spec()))
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_ctrl_c_ends_the_reading(photos):
    code = f"""
from pathlib import Path
from hast.errors import clear_interrupts
from hast.config.spec import ModelSpec
from hast.files.datasets import DatasetConfig, open_batches

spec = ModelSpec(input_shape=(3, 200, 200), num_classes=2, mean=(0.5,) * 3, std=(0.5,) * 3)
with clear_interrupts("evaluate", kept="all"):
    batches = open_batches(DatasetConfig(name="folder", root=Path({str(photos)!r})), "test", spec)
    print("reads", flush=True)
    while True:
        for _ in batches: pass
"""
    process = started("-c", code, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == "reads\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip() == "interrupted: evaluate: all"
