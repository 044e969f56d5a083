"""Figures are drawn, hold the numbers they were given, and fit into a page."""

import io
import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from conftest import spec_of
from PIL import Image

from hast.bank.record import Bank, BankCard
from hast.report.figures.canvas import to_png, to_svg
from hast.report.figures.samples import (
    bank_grid,
    choose_samples,
    confusion_change,
    difficulty_histogram,
    error_by_difficulty,
)
from hast.report.figures.training import bns_gap, fidelity_gap, moving_mean, training_curves


def test_the_grid_shows_each_class_from_easy_to_hard():
    labels = torch.tensor([0, 0, 0, 1, 1, 0, 0])
    difficulty = torch.tensor([0.5, 0.1, 0.9, 0.3, 0.2, 0.7, 0.3])
    grid = choose_samples(labels, difficulty, classes=5, columns=3)
    assert grid.tolist() == [[1, 0, 2], [4, 3, -1]]


def test_of_many_classes_evenly_spaced_ones_are_shown():
    labels = torch.arange(100)
    grid = choose_samples(labels, torch.rand(100), classes=4, columns=1)
    assert labels[grid.flatten()].tolist() == [0, 33, 66, 99]


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_grid_of_any_channels_is_a_picture(channels):
    spec = spec_of((channels, 8, 8), 3, class_names=("cat", "dog", "a very long name of a class"))
    card = BankCard(samples=12, spec=spec, teacher="c" * 64, synthesis={})
    images, labels = torch.rand(12, *spec.input_shape), torch.arange(12) % 3
    figure = bank_grid(Bank(images, labels, card, torch.rand(12)), columns=4)
    picture = Image.open(io.BytesIO(to_png(figure, dpi=50)))
    assert picture.width > 100
    assert len(picture.convert("L").getcolors()) > 20


def test_a_histogram_holds_the_shares():
    values = torch.tensor([0.01, 0.02, 0.99, 1.0])
    figure = difficulty_histogram({"bank": values}, bins=4)
    (stairs,) = figure.axes[0].patches
    assert stairs.get_data().values.tolist() == [0.5, 0.0, 0.0, 0.5]


def test_errors_are_grouped_by_difficulty():
    difficulty = torch.tensor([0.0, 0.05, 0.95, 1.0])
    wrong = {"student": torch.tensor([False, True, True, True])}
    figure = error_by_difficulty(difficulty, wrong, bins=10)
    points = figure.axes[0].containers[0].lines[0]
    assert points.get_ydata().tolist() == [0.5, 1.0]
    assert [text.get_text() for text in figure.axes[0].texts] == ["2", "2"]


def test_of_many_classes_those_that_changed_most_are_shown():
    labels = torch.arange(50)
    student = labels.clone()
    student[40] = 41
    figure = confusion_change(labels, labels, student, spec_of((1, 8, 8), 50))
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert {"40", "41"} <= {*names}
    assert len(names) == 20
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["+1", "-1"]


def test_a_moving_mean_keeps_the_length_and_a_constant():
    assert moving_mean([2.0] * 5) == [2.0] * 5
    assert moving_mean([0.0, 3.0, 0.0], window=3) == [1.5, 1.0, 1.5]


def figures():
    curve = {"step": [0, 1, 2], "loss": [3.0, 2.0, 1.0], "zero": [0.0, 0.0, 0.0]}
    labels = torch.arange(20) % 4
    return {
        "histogram": difficulty_histogram({"a": torch.rand(9), "b": torch.rand(5)}),
        "errors": error_by_difficulty(torch.rand(20), {"q": torch.rand(20) > 0.5}),
        "curves": training_curves({"w4a4": curve, "w3a3": curve}, columns=("loss", "zero")),
        "bns": bns_gap([0.1, 0.01]),
        "fidelity": fidelity_gap({"W4A4": {"bank": 1.0, "test": 1.0}}),
        "confusion": confusion_change(labels, labels, labels.flip(0), spec_of((1, 8, 8), 4)),
    }


@pytest.mark.parametrize("name", figures())
def test_an_svg_has_its_own_ids_the_pages_ink_and_a_description(name):
    svg = to_svg(figures()[name], name, description='a < b & "c"')
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == 'a < b & "c"'
    assert root.get("width") is None
    assert root.get("viewBox")
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len({*ids})
    assert all(i.startswith(f"{name}-") for i in ids)
    used = re.findall(r'(?:url\(|href=")#([^")]+)', svg)
    assert {*used} <= {*ids}
    assert "currentColor" in svg
    assert "#0a0b0c" not in svg


@pytest.mark.parametrize(
    ("gaps", "labels"),
    [([0.8, 1.6, 6.0], {"1", "2", "5"}), ([0.0002, 0.03, 2.0], {"0.001", "0.01", "0.1", "1"})],
)
def test_a_logarithmic_axis_has_plain_numbers(gaps, labels):
    svg = to_svg(bns_gap(gaps), "gap", description="a gap")
    texts = {t.strip() for t in ElementTree.fromstring(svg).itertext() if t.strip()}
    assert labels <= texts
    assert not any("$" in t for t in texts)
