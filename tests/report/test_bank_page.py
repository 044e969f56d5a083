"""`hast bank preview` and `hast bank card`, as a user gets them."""

import io
import json
from pathlib import Path

import pytest
import torch
from browser import opened
from PIL import Image
from test_cli import cli

from hast.bank.record import BankCard
from hast.bank.writer import BankWriter
from hast.config.spec import ModelSpec

# Class k is one colour, so that a picture tells which samples it shows.
COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}
SPEC = ModelSpec(
    input_shape=(3, 8, 8), num_classes=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4),
    class_names=tuple(COLOURS),
)  # fmt: skip


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    labels = torch.arange(60) % 3
    pixels = torch.tensor(list(COLOURS.values()))[labels].view(-1, 3, 1, 1).expand(-1, 3, 8, 8)
    card = BankCard(samples=60, spec=SPEC, teacher="c" * 64, synthesis={"gamma": 2.0, "seed": 7})
    writer = BankWriter(folder / "partial", card, 60)
    writer.write(slice(0, 60), SPEC.normalize(pixels), labels)
    writer.seal(torch.linspace(0, 1, 60), torch.tensor([0.5, 0.25, 0.1]))
    writer.publish(folder / "bank")
    return folder / "bank"


def colours_of(path_or_bytes) -> set[tuple[int, int, int]]:
    """The colours that fill more than a hundredth of a picture."""
    image = Image.open(path_or_bytes).convert("RGB")
    counted = image.getcolors(maxcolors=image.width * image.height)
    return {colour for n, colour in counted if n > image.width * image.height / 100}


def test_the_preview_shows_the_pixels_of_every_class(bank, tmp_path):
    picture = tmp_path / "grid.png"
    done = cli("bank", "preview", str(bank), "--out", str(picture), "--columns", "4")
    assert (done.returncode, done.stdout.strip()) == (0, str(picture))
    assert {(255, 0, 0), (0, 255, 0), (0, 0, 255)} <= colours_of(picture)


def test_the_preview_shows_as_many_classes_as_asked(bank, tmp_path):
    picture = tmp_path / "grid.png"
    assert (
        cli("bank", "preview", str(bank), "--out", str(picture), "--classes", "2").returncode == 0
    )
    shown = colours_of(picture)
    assert {(255, 0, 0), (0, 0, 255)} <= shown
    assert (0, 255, 0) not in shown


@pytest.mark.parametrize("command", ["preview", "card"])
def test_where_nothing_can_be_written_one_line_says_so(bank, tmp_path, command):
    (tmp_path / "file").touch()
    done = cli("bank", command, str(bank), "--out", str(tmp_path / "file" / "out"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_card_opens_in_a_browser_and_says_what_the_bank_is(browser, bank, tmp_path, scheme):
    card = tmp_path / "card.html"
    assert cli("bank", "card", str(bank), "--out", str(card)).returncode == 0
    info = json.loads(cli("bank", "info", "--json", str(bank)).stdout)
    with opened(browser, card, color_scheme=scheme) as tab:
        assert tab.complaints == []
        assert tab.requests == []
        text = tab.page.inner_text("body")
        assert f"{info['samples']} synthetic samples" in text
        assert info["teacher"] in text
        assert "gamma" in text
        titles = [h.inner_text() for h in tab.page.query_selector_all("h2")]
        assert titles == ["Provenance", "Samples", "Difficulty", "Classes", "BNS gap"]
        sizes = tab.page.eval_on_selector_all("img", "all => all.map(i => i.naturalWidth)")
        assert min(sizes) > 100
        drawn = tab.page.eval_on_selector_all(
            "figure > svg", "all => all.map(s => s.getBoundingClientRect().height)"
        )
        assert len(drawn) == 3
        assert min(drawn) > 80
        pictured = tab.page.query_selector("img").screenshot()
    assert {(255, 0, 0), (0, 255, 0), (0, 0, 255)} <= colours_of(io.BytesIO(pictured))
