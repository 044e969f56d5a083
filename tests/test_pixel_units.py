"""One function that takes pixels in three units: normalized, in [0, 1] and in [0, 255]."""

import pytest
import torch
from students import Net, warm_network
from torch import nn

import hast
from bench.experiment import TakesPixels
from hast.config.finetune import FinetuneConfig
from hast.loops.finetune import finetune

NORMALIZED = hast.ModelSpec(
    input_shape=(3, 16, 16), num_classes=5, mean=(0.5,) * 3, std=(0.25,) * 3
)


def network():
    torch.manual_seed(0)
    return warm_network(
        Net(
            lambda net, x: net.fc(net.norm(net.conv(x)).relu().mean((2, 3))),
            conv=nn.Conv2d(3, 8, 3), norm=nn.BatchNorm2d(8), fc=nn.Linear(8, 5),
        ),
        NORMALIZED,
    )  # fmt: skip


def convention(largest):
    """The network, its spec, and its images as normalized ones."""
    if largest is None:
        return network(), NORMALIZED, lambda images: images
    spec = NORMALIZED.model_copy(update={"mean": (0.0,) * 3, "std": (1 / largest,) * 3})
    return (
        TakesPixels(network(), NORMALIZED, largest).eval(),
        spec,
        lambda images: (images / largest - 0.5) / 0.25,
    )


WAYS = [
    {"init": "gaussian"}, {"init": "pink"}, {"init": "generator"},
    {"init": "pink", "space": "spectrum"},
]  # fmt: skip


@pytest.mark.parametrize("largest", [1.0, 255.0])
@pytest.mark.parametrize("way", WAYS, ids=["Gaussian", "pink", "generator", "spectrum"])
def test_the_same_images_are_made_whatever_the_unit(largest, way):
    def made(largest):
        teacher, spec, normalized = convention(largest)
        common = {"seed": 0, "progress": False}
        generator = hast.train_generator(teacher, spec, steps=3, batch_size=8, **common)
        bank = hast.synthesize(
            teacher, spec, samples=8, batch_size=8, steps=4, dtype="float32", generator=generator,
            **common, **way,
        )  # fmt: skip
        return normalized(bank.images)

    usual, other = made(None), made(largest)
    assert usual.std() > 0.2
    # Adam's first steps follow signs, and a gradient of nearly zero may have either.
    assert ((usual - other).abs() > 0.01 * usual.std()).float().mean() < 0.01


@pytest.mark.parametrize("largest", [1.0, 255.0])
def test_promotion_is_the_same_whatever_the_unit(largest):
    def promoted(largest):
        teacher, spec, _ = convention(largest)
        images = hast.synthesize(
            *convention(None)[:2], samples=8, steps=1, dtype="float32", progress=False
        ).images
        images = images if largest is None else (0.25 * images + 0.5) * largest
        bank = hast.synthesize(teacher, spec, samples=8, steps=1, progress=False)
        bank = bank._replace(images=images)
        student = hast.calibrate(
            teacher, spec, bank, calibration={"batches": 1, "batch_size": 8}, progress=False
        )
        config = FinetuneConfig(steps=1, batch_size=8, promotion_step=0.2, flip=False)
        steps = finetune(student.requires_grad_(True), teacher, images, torch.ones(8), [], config)
        return next(iter(steps)).promoted

    assert promoted(None) > 0
    torch.testing.assert_close(promoted(largest), promoted(None), rtol=0.02, atol=1e-4)
