"""What bench.accuracy keeps: a stopped sweep goes on, other conditions stay apart."""

import pytest
import torch
from conftest import ROOT

from bench.accuracy_results import Results, Row, packed
from hast.engine.engine import PLAIN
from hast.files.tables import read_json
from hast.math.intervals import mean_margin

SETTINGS = {"quantize": {"promotion_step": 0.1}}
KEPT = sorted((ROOT / "docs/results").glob("*.json"))
CPU = torch.device("cpu")
ROW = Row("best", "w3a3", 0, before=60.0, all=84.0, first_half=85.0, second_half=83.0)


@pytest.fixture
def kept(tmp_path):
    path = tmp_path / "out" / "sweep.json"
    results = Results.open(path, "abc", CPU, PLAIN)
    results.define("best", SETTINGS)
    results.set_teacher({"all": 88.0, "first_half": 88.0, "second_half": 88.0})
    results.add(ROW)
    results.look("best w3a3 0", 300, 80.0)
    return path


def test_a_stopped_sweep_goes_on(kept):
    results = Results.open(kept, "abc", CPU, PLAIN)
    assert results.teacher["all"] == 88.0
    assert results.has("best", "w3a3", 0)
    assert not results.has("best", "w3a3", 1)
    assert not results.has("best", "w4a4", 0)
    results.add(ROW._replace(seed=1, all=86.0))
    results.look("best w3a3 0", 600, 84.0)
    assert [row.all for row in Results.read(kept).rows] == [84.0, 86.0]
    assert read_json(kept)["curves"] == {"best w3a3 0": {"300": 80.0, "600": 84.0}}


def test_figures_of_another_teacher_are_kept_apart(kept, tmp_path):
    before = kept.read_bytes()
    with pytest.raises(SystemExit, match=r"abc.*name another"):
        Results.open(kept, "def", CPU, PLAIN)
    other = Results.open(tmp_path / "other.json", "def", CPU, PLAIN)
    with pytest.raises(SystemExit, match=r"abc.*def"):
        Results.read(kept).include(other)
    assert kept.read_bytes() == before


def test_a_variant_that_means_something_else_now_is_refused(kept):
    results = Results.open(kept, "abc", CPU, PLAIN)
    results.define("best", SETTINGS)
    results.define("hast", {})
    with pytest.raises(SystemExit, match=r"best measured with .*0\.1.*0\.01.*name another"):
        results.define("best", {"quantize": {"promotion_step": 0.01}})


def test_files_of_several_runs_become_one(kept, tmp_path):
    other = Results.open(tmp_path / "other.json", "abc", CPU, PLAIN)
    other.define("hast", {})
    other.add(ROW._replace(all=1.0))  # measured twice: the first counts
    other.add(ROW._replace(variant="hast", all=79.0))
    results = Results.read(kept)
    results.include(other)
    assert [(row.variant, row.all) for row in results.rows] == [("best", 84.0), ("hast", 79.0)]
    with pytest.raises(SystemExit, match="hast measured with"):
        results.define("hast", SETTINGS)


def test_the_table_has_the_mean_and_the_spread_of_the_seeds(kept):
    results = Results.read(kept)
    assert results.table()[-1] == "| best | W3A3 | 1 | 60.00 | 84.00 | 85.00 | 83.00 |"
    results.add(ROW._replace(seed=1, all=86.0))
    line = "| best | W3A3 | 2 | 60.00 ± 0.00 | 85.00 ± 1.41 | 85.00 ± 0.00 | 83.00 ± 0.00 |"
    assert results.table()[-1] == line


def test_gains_are_paired_on_the_same_images(kept):
    right = torch.tensor([True] * 9 + [False] * 4)
    better = right.clone()
    better[-3:] = True  # of 13 images three are gained and one is lost
    better[0] = False
    results = Results.read(kept)
    results.rows = [
        ROW._replace(right=packed(better)),
        ROW._replace(variant="hast", right=packed(right)),
    ]
    gains = [line.split("|")[-2].strip() for line in results.table("hast")]
    margin = mean_margin([-100.0] + 8 * [0.0] + [0.0] + 3 * [100.0])
    assert gains == ["gains on hast", "---:", f"15.38 ± {margin:.2f}", "0.00 ± 0.00"]
    assert results.table("nobody")[-1].endswith("| – |")


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_the_docs_show_what_was_measured(path):
    shown = (ROOT / "docs/results.md").read_text()
    assert "\n".join(Results.read(path).table()) in shown


def test_the_picture_is_drawn(kept, tmp_path):
    picture = tmp_path / "sweep.png"
    Results.read(kept).draw(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
