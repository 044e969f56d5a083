"""`hast bank preview` and `hast bank card`, as a user gets them."""

import io
import json
from pathlib import Path

import pytest
import torch
from browser import assert_shown, opened
from conftest import spec_of
from PIL import Image

from hast.bank.pixels import as_stored
from hast.bank.record import Bank, BankCard
from hast.bank.tools import save_bank

# Class k is one colour, so that a picture tells which samples it shows.
COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}
SPEC = spec_of((3, 8, 8), 3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), class_names=tuple(COLOURS))


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    labels = torch.arange(60) % 3
    pixels = torch.tensor(list(COLOURS.values()))[labels].view(-1, 3, 1, 1).expand(-1, 3, 8, 8)
    card = BankCard(samples=60, spec=SPEC, teacher="c" * 64, synthesis={"gamma": 2.0, "seed": 7})
    images, gaps = as_stored(SPEC.normalize(pixels), "uint8"), torch.tensor([0.5, 0.25, 0.1])
    save_bank(Bank(images, labels, card, torch.linspace(0, 1, 60), gaps), folder / "bank")
    return folder / "bank"


def colours_of(path_or_bytes) -> set[tuple[int, int, int]]:
    """The colours that fill more than a hundredth of a picture."""
    image = Image.open(path_or_bytes).convert("RGB")
    counted = image.getcolors(maxcolors=image.width * image.height)
    return {colour for n, colour in counted if n > image.width * image.height / 100}


@pytest.mark.parametrize("classes", [2, 3])
def test_the_preview_shows_as_many_classes_as_asked(bank, hast_here, tmp_path, classes):
    picture = tmp_path / "grid.png"
    done = hast_here("bank", "preview", str(bank), "--out", str(picture), "--classes", str(classes))
    assert done.stdout.strip() == str(picture)
    shown = colours_of(picture)
    assert {(255, 0, 0), (0, 0, 255)} <= shown
    assert ((0, 255, 0) in shown) == (classes == 3)


@pytest.mark.parametrize("command", ["preview", "card"])
def test_where_nothing_can_be_written_one_line_says_so(bank, hast_refuses, tmp_path, command):
    (tmp_path / "file").touch()
    hast_refuses("bank", command, str(bank), "--out", str(tmp_path / "file" / "out"))


def test_the_card_opens_in_a_browser_and_says_what_the_bank_is(browser, bank, hast_here, tmp_path):
    card = tmp_path / "card.html"
    hast_here("bank", "card", str(bank), "--out", str(card))
    info = json.loads(hast_here("bank", "info", "--json", str(bank)).stdout)
    with opened(browser, card) as tab:
        assert_shown(tab, figures=3)
        text = tab.page.inner_text("body")
        assert f"{info['samples']} synthetic samples" in text
        assert info["teacher"] in text
        assert "gamma" in text
        titles = [h.inner_text() for h in tab.page.query_selector_all("h2")]
        assert titles == ["Provenance", "Samples", "Difficulty", "Classes", "BNS gap"]
        pictured = tab.page.query_selector("img").screenshot()
    assert {(255, 0, 0), (0, 255, 0), (0, 0, 255)} <= colours_of(io.BytesIO(pictured))
