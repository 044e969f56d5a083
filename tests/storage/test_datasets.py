import pytest
import torch
from PIL import Image

from hast.errors import InputError
from hast.networks.digits_resnet import DIGITS_SPEC
from hast.networks.spec import ModelSpec
from hast.storage.datasets import DatasetConfig, load_digits_split, open_batches


def test_the_digits_split_is_two_thirds_to_one_and_shares_no_image():
    train, test = (load_digits_split(s, DIGITS_SPEC) for s in ("train", "test"))
    assert (len(train.images), len(test.images)) == (1198, 599)
    rows = {image.numpy().tobytes() for image in train.images}
    assert not any(image.numpy().tobytes() in rows for image in test.images)
    counts = torch.bincount(test.labels)
    assert counts.max() - counts.min() <= 4
    assert train.images.mean().abs() < 0.01
    assert (train.images.std() - 1).abs() < 0.01


@pytest.fixture
def folder(tmp_path):
    for name, value in (("cat", 0), ("dog", 255)):
        path = tmp_path / "test" / name
        path.mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (16, 12), (value,) * 3).save(path / f"{i}.png")
    return tmp_path


def folder_spec(channels=3, num_classes=2):
    return ModelSpec(
        input_shape=(channels, 8, 8), num_classes=num_classes,
        mean=(0.5,) * channels, std=(0.25,) * channels,
    )  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_folder_is_read_in_alphabetical_order(folder, channels):
    batches = open_batches(DatasetConfig(name="folder", root=folder), "test", folder_spec(channels))
    (images, labels), *rest = batches
    assert not rest
    assert images.shape == (6, channels, 8, 8)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.allclose(images[0], torch.tensor(-2.0))
    assert torch.allclose(images[-1], torch.tensor(2.0))


@pytest.mark.parametrize("fraction", [1.0, 0.8])
@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 5, 21), (3, 30, 9)])
def test_images_cover_the_input_without_borders(folder, shape, fraction):
    spec = ModelSpec(input_shape=shape, num_classes=2, mean=(0.5,) * 3, std=(0.25,) * 3)
    config = DatasetConfig(name="folder", root=folder, crop_fraction=fraction)
    ((images, _),) = open_batches(config, "test", spec)
    assert images.shape[1:] == shape
    assert torch.allclose(images[-1], torch.tensor(2.0))


def test_a_broken_image_and_an_empty_class_are_named(folder):
    (folder / "test/cat/0.jpg").write_bytes(b"no image")
    config = DatasetConfig(name="folder", root=folder)
    with pytest.raises(InputError, match=r"cat/0\.jpg: not a readable image"):
        list(open_batches(config, "test", folder_spec()))
    (folder / "test/empty").mkdir()
    with pytest.raises(InputError, match="empty"):
        open_batches(config, "test", folder_spec())


def test_a_dataset_that_does_not_fit_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match="holds 2 classes but the teacher answers 3"):
        open_batches(DatasetConfig(name="folder", root=folder), "test", folder_spec(num_classes=3))
    with pytest.raises(InputError, match=r"dataset\.root must be a folder"):
        open_batches(DatasetConfig(name="folder"), "test", folder_spec())
    with pytest.raises(InputError, match="holds 1x8x8 images of 10 classes but the teacher"):
        open_batches(DatasetConfig(), "test", folder_spec())
