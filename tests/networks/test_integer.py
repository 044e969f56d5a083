"""A packed checkpoint is an integer network."""

import pytest
import torch
from integer import integer_network
from students import calibrated, warm_classifier

import hast


@pytest.mark.parametrize(
    ("source", "arguments", "shape", "bits"),
    [
        ("builtin:digits_resnet", {"widths": (8, 16)}, (1, 8, 8), "w4a4"),
        ("builtin:digits_resnet", {"widths": (8, 16)}, (1, 8, 8), "w2a5"),
        ("builtin:digits_resnet", {"widths": (8, 16)}, (1, 8, 8), "w8a8"),
        ("torchvision:mobilenet_v2", {}, (3, 32, 32), "w8a8"),  # depthwise
    ],
)
def test_a_packed_checkpoint_is_answered_by_integers(source, arguments, shape, bits, tmp_path):
    network, spec = warm_classifier(source, arguments, shape)
    student = calibrated(network, spec, bits)
    hast.save(student, tmp_path / "packed")
    integer = integer_network(hast.load(tmp_path / "packed"))
    x = torch.randn(64, *shape)
    with torch.no_grad():
        answers, expected = integer(x), student(x)
    # A value between two codes may fall to the other side where sums are taken in another order.
    assert (answers.argmax(1) == expected.argmax(1)).float().mean() >= 0.98
    assert (answers - expected).abs().mean() < 0.02 * expected.std()
