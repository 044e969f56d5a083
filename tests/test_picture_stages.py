"""The stages where `bank.source` is a folder of pictures, for networks without BatchNorm too."""

import shutil

import pytest
from conftest import refused, set_params
from pictures import BUILDERS, make_pictures
from stage_runs import A, M, run, run_student, run_synthesize, run_teacher

from hast.bank.stored import StoredBank
from hast.files.tables import read_json, read_tsv

pytestmark = pytest.mark.filterwarnings("ignore::hast.errors.HastWarning")  # of attention
PICTURES = {
    "teacher.weights": None, "teacher.source_args": {},
    "teacher.spec": {"input_shape": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3},
    "bank.source": "pictures", "calibrate.images": "bank", "dataset.name": "none",
}  # fmt: skip


@pytest.fixture(params=[*BUILDERS])
def own(request, project):
    """A project with a network of the user's own that has no BatchNorm, and with pictures."""
    set_params(project, PICTURES | {"teacher.source": f"python:pictures:{request.param}"})
    make_pictures(project / "pictures", 24)
    return project


def test_every_stage_runs_and_no_gap_is_told(own):
    learned = {"layers.quantizer": "learned", "quantize.optimizer": "adamw"}
    set_params(own, learned | {"reconstruct.steps": 2, "reconstruct.samples": 16})
    set_params(own, {"sensitivity.enabled": True, "sensitivity.samples": 8})
    run_teacher()
    assert read_json(M / "teacher.json")["batch_norm_layers"] == 0
    run("generator")
    assert (A / "generator/not-trained.json").is_file()
    run_synthesize()
    bank = StoredBank(A / "bank")
    assert bank.bns_gap is None
    assert bank.card.derived.operation == "import"
    assert [*read_json(M / "synthesize.json")] == ["samples", "difficulty"]
    assert read_tsv(own / "plots/bns.tsv") == []
    run_student("w4a4")
    run("report")
    page = (own / "report/index.html").read_text()
    assert "BNS gap" not in page
    assert "made from the teacher alone" not in page
    assert " nan" not in page.lower()


def test_a_changed_picture_is_noticed(own):
    def noted():
        run("inputs")
        return read_json(A / "inputs/bank.json")

    first = noted()
    assert first["manifest"] is None
    assert noted() == first
    (own / "pictures/notes.txt").write_text("other notes")
    assert noted() == first
    picture = next((own / "pictures").rglob("*.png"))
    shutil.copy(next((own / "pictures").rglob("*.JPG")), picture)
    assert noted() != first


def test_pictures_that_change_under_a_run_end_it(own):
    run_teacher()
    next((own / "pictures").rglob("*.png")).unlink()
    with refused(r"bank\.source: pictures changed while the pipeline ran"):
        run_synthesize()


@pytest.mark.parametrize("stage", ["generator", "synthesize"])
def test_what_needs_batch_norm_says_what_to_do_before_any_work(own, stage):
    set_params(own, {"bank.source": None, "calibrate.images": "generator"})
    run_teacher()
    with refused(r"no BatchNorm .* bank\.source: FOLDER with calibrate"):
        run(stage)
    assert not (own / ".partial").exists()


def test_a_source_with_neither_bank_nor_pictures_is_refused_by_the_first_stage(project):
    (project / "nothing").mkdir()
    for source in ("nothing", "nowhere"):
        set_params(project, {"bank.source": source})
        with refused(f"{source} holds no manifest.json and no pictures"):
            run("inputs")
