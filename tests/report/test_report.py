"""The report of a small run, read as text and opened in a real browser."""

import re
from pathlib import Path

import pytest
from browser import assert_shown, opened
from conftest import WIDTHS, refused, set_params
from stage_runs import run

from hast.files.tables import read_json, read_tsv
from hast.report.record import read_run, verdict


@pytest.fixture
def page(finished_run) -> Path:
    return finished_run / "report/index.html"


def measured(folder: Path, width: str) -> dict:
    return read_json(folder / f"metrics/evaluate/{width}.json")


def test_the_page_loads_nothing(page):
    text = page.read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"<script|@import|url\((?!#)", text)


def test_two_reports_of_one_run_are_the_same(finished, page):
    run("report")
    assert Path("report/index.html").read_text() == page.read_text()


def test_results_say_what_was_measured(finished_run):
    results = read_json(finished_run / "report/results.json")
    assert list(results) == ["fp32", *WIDTHS]
    for width in WIDTHS:
        student = measured(finished_run, width)["student"]
        assert results[width]["top1"] == student["top1"]
        assert results[width]["drop"] == results["fp32"]["top1"] - student["top1"]
        smaller = results["fp32"]["size_bytes"] / student["size_bytes"]
        assert results[width]["compression"] == pytest.approx(smaller)


def test_the_first_lines_say_how_much_is_low_bit(finished_run, page):
    header = page.read_text().partition("</header>")[0]
    for width in WIDTHS:
        shares = read_json(finished_run / f"metrics/calibrate/{width}.json")
        assert shares["low_bit_weights"] == 1
        assert 0.9 < shares["low_bit_multiply_adds"] <= 1
        multiply_adds = f"{shares['low_bit_multiply_adds']:.2%} of the multiply-adds"
        assert f"low-bit: 100.00% of the weights, {multiply_adds}" in header


def test_predictions_count_up_to_the_metrics(finished_run):
    rows = read_tsv(finished_run / "artifacts/predictions/w4a4.tsv")
    metrics = measured(finished_run, "w4a4")
    assert len(rows) == metrics["student"]["samples"]
    for name in ("teacher", "calibrated", "student"):
        right = sum(row[name] == row["label"] for row in rows)
        assert right / len(rows) == metrics[name]["top1"]
        assert all(0 <= float(row[f"{name}_difficulty"]) <= 1 for row in rows)


LOST = {"drop": 0.1, "drop_margin": 0.02, "top1": 0.8}
SAME = {"drop": 0.0, "drop_margin": 0.0}


@pytest.mark.parametrize(
    ("row", "text", "said"),
    [
        ({"drop": 0.01, "drop_margin": 0.02}, "cannot be told from the teacher's", True),
        (SAME, "cannot be told from the teacher's", True),
        ({"drop": 0.05, "drop_margin": 0.02}, "loses 5.00 ± 2.00 points", True),
        ({"drop": -0.05, "drop_margin": 0.02}, "is 5.00 ± 2.00 points more accurate", True),
        (LOST | {"top1_before_finetuning": 0.95}, "Fine-tuning made it worse", True),
        (LOST | {"top1_before_finetuning": 0.81}, "Fine-tuning made it worse", False),
        (LOST | {"top1_before_finetuning": 0.5}, "Fine-tuning made it worse", False),
        (SAME | {"kept_step": 15}, "the student is that of step 15 of 60", True),
        (SAME | {"kept_step": 60}, "the student is that of step", False),
    ],
)
def test_the_verdict_knows_noise_harm_and_an_earlier_step(row, text, said):
    known = {"agreement": 0.9, "samples": 100, "kept_step": 60, "steps": 60}
    assert (text in verdict("w4a4", known | row)) == said


def test_students_that_were_not_fine_tuned_have_no_curve(finished):
    """`quantize.steps: 0`, as recipe `best` has it for large images, writes curves of no rows."""
    for i, width in enumerate(WIDTHS):
        curve = Path(f"plots/quantize/{width}.tsv")
        curve.write_text(curve.read_text().partition("\n")[0] + "\n")
        run("report")
        page = Path("report/index.html").read_text()
        assert ("Fine-tuning by step." in page) == (i < len(WIDTHS) - 1)


def test_a_missing_file_is_named(finished_run, monkeypatch):
    monkeypatch.chdir(finished_run)
    with refused(r"nothing/bns\.tsv: no such file; run `dvc repro`"):
        read_run(Path("params.yaml"), plots=Path("nothing"))


def test_a_browser_shows_it_without_a_complaint(browser, finished_run, page):
    with opened(browser, page) as tab:
        assert_shown(tab, figures=7)
        anchors = tab.page.eval_on_selector_all("nav a", "all => all.map(a => a.hash.slice(1))")
        assert all(tab.page.query_selector(f"[id='{anchor}']") for anchor in anchors)


def test_its_headline_is_what_the_metrics_files_say(browser, finished_run, page):
    with opened(browser, page) as tab:
        shown = {
            card.get_attribute("data-network"): card.query_selector(".figure").inner_text()
            for card in tab.page.query_selector_all(".card")
        }
        rows = tab.page.eval_on_selector_all(
            "#results tbody tr", "all => all.map(r => [...r.cells].map(c => c.innerText))"
        )
    teacher = measured(finished_run, "w4a4")["teacher"]
    assert shown.pop("fp32") == f"{teacher['top1']:.2%}"
    for (name, headline), row in zip(shown.items(), rows[1:], strict=True):
        metrics = measured(finished_run, name)
        assert headline == row[1] == f"{metrics['student']['top1']:.2%}"
        assert row[3] == f"{metrics['calibrated']['top1']:.2%}"
        assert row[5] == f"{metrics['student']['agreement']:.2%}"
        assert row[6] == f"{metrics['bank']['student']['agreement']:.2%}"
        assert row[7] == f"{metrics['student']['size_bytes']:,}"


def lightness(tab, selector: str, what: str) -> float:
    colour = tab.page.eval_on_selector(selector, f"e => getComputedStyle(e).{what}")
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3 / 255


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_ink_and_page_differ_in_light_and_dark(browser, page, scheme, dark):
    with opened(browser, page, color_scheme=scheme) as tab:
        paper = lightness(tab, "body", "backgroundColor")
        assert (paper < 0.3) == dark
        for text in ("h1", "main p", "figcaption", "#layers td", "figure svg text"):
            what = "fill" if "svg" in text else "color"
            assert abs(lightness(tab, text, what) - paper) > 0.35, text


def test_a_phone_does_not_scroll_sideways(browser, page):
    with opened(browser, page, viewport={"width": 360, "height": 740}) as tab:
        assert tab.page.evaluate("document.documentElement.scrollWidth") == 360


def test_it_prints_on_white_paper_without_the_menu_and_with_what_is_folded(browser, page):
    with opened(browser, page, color_scheme="dark") as tab:
        folded = "#provenance details table"
        assert not tab.page.is_visible(folded)
        tab.page.emulate_media(media="print")
        assert tab.page.is_visible(folded)
        assert lightness(tab, "body", "backgroundColor") == 1.0
        assert not tab.page.is_visible("nav")
        assert len(tab.page.pdf(format="A4")) > 20_000


def test_without_test_images_it_says_what_is_not_known(browser, finished):
    set_params(Path(), {"dataset.name": "none"})
    with refused("is of other test images; rerun `dvc repro answers`"):
        run("evaluate", "w4a4")
    run("answers")
    for width in WIDTHS:
        run("evaluate", width)
    curve = Path("plots/generator.tsv")  # as it is where a bank of others is taken
    curve.write_text(curve.read_text().partition("\n")[0] + "\n")
    run("report")
    results = read_json(Path("report/results.json"))
    assert results["w4a4"].keys() == {
        "size_bytes", "samples", "compression", "bank_agreement", "low_bit_weights",
        "low_bit_multiply_adds", "kept_step", "steps",
    }  # fmt: skip
    with opened(browser, Path("report/index.html")) as tab:
        assert tab.complaints == []
        text = tab.page.inner_text("body")
    assert "No test images were given" in text
    assert "without test images nobody knows its accuracy" in text
    assert "Confusion" not in text
    table = Path("report/results.md").read_text()
    assert f"{results['w4a4']['bank_agreement']:.2%}" in table
