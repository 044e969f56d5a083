"""A sweep over real DVC experiments, with stages that only count and sum."""

import json
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
from conftest import commit_all, copy_project, dvc, git
from light_project import run_flows

# Accuracy falls with the seed, without alignment, and by what the "bank" was made with.
STAGE = """
import json, sys
from pathlib import Path
from ruamel.yaml import YAML

params = YAML(typ="safe").load(Path("params.yaml"))
Path("out").mkdir(exist_ok=True)
if sys.argv[1] == "bank":
    with open(LOG, "a") as log:
        log.write("made\\n")
    Path("out/bank.json").write_text(json.dumps(params["synthesize"]["gamma"]))
elif sys.argv[1] == "student":
    quantize = params["quantize"]
    if quantize["seed"] == 13:
        sys.exit("error: student: an unlucky number")
    gamma = json.loads(Path("out/bank.json").read_text())
    top1 = 0.9 - 0.01 * quantize["seed"] - 0.2 * (not gamma)
    top1 -= 0.1 * (not quantize["alignment_weight"])
    Path("out/student.json").write_text(json.dumps(top1))
else:
    top1 = json.loads(Path("out/student.json").read_text())
    Path("report").mkdir(exist_ok=True)
    results = {"fp32": {"top1": 1}, "w4a4": {"top1": top1}}
    Path("report/results.json").write_text(json.dumps(results))
"""

DEFINITION = """
stages:
  bank:
    cmd: python count.py bank
    params: [synthesize]
    outs: [out/bank.json]
  student:
    matrix: {bits: [w4a4]}
    cmd: python count.py student
    deps: [out/bank.json]
    params: [quantize]
    outs: [out/student.json]
  report:
    cmd: python count.py report
    deps: [out/student.json]
    outs: [report/results.json]
"""


@pytest.fixture
def project(tmp_path) -> Path:
    project = copy_project(tmp_path / "project")
    (project / "dvc.yaml").write_text(DEFINITION)
    (project / "count.py").write_text(STAGE.replace("LOG", repr(str(tmp_path / "made"))))
    commit_all(project, "counting stages")
    return project


def run_sweep(prefect: dict[str, str], project: Path, **parameters: Any) -> list[Any]:
    """Name, message and result of the flow's state, and the rows of the published table."""
    (run,) = run_flows(prefect, (project, "true", parameters), flow="sweep")
    *state, _tasks, artifacts = run
    (table,) = artifacts.values()
    return [*state, json.loads(table)]


def test_a_sweep_shares_banks_and_tells_mean_and_deviation(prefect, project, tmp_path):
    before = (project / "params.yaml").read_text()
    variants = {
        "full": {},
        "λ = 0": {"quantize.alignment_weight": 0},
        "γ = 0": {"synthesize.gamma": 0.0},
    }
    name, message, result, table = run_sweep(prefect, project, variants=variants, seeds=[0, 2])
    assert name == "Completed", message
    spread = stdev([0.9, 0.88])
    for variant, mean in (("full", 0.89), ("λ = 0", 0.79), ("γ = 0", 0.69)):
        summary = result[variant]["w4a4"]
        assert summary["mean"] == pytest.approx(mean)
        assert summary["std"] == pytest.approx(spread)
        assert summary["runs"] == 2
    assert table[0] == {"variant": "full", "W4A4": "89.00% ± 1.41 (2)"}
    (page,) = (project / "sweeps").glob("*.md")
    assert "| γ = 0 | 69.00% ± 1.41 (2) |" in page.read_text()
    assert (tmp_path / "made").read_text().count("made") == 2  # one bank a γ
    assert (project / "params.yaml").read_text() == before
    assert len(dvc(project, "exp", "list", "--name-only").split()) == 6
    assert git(project, "status", "--porcelain") == ""


@pytest.mark.slow
def test_a_failed_experiment_fails_the_sweep_and_the_table_shows_the_others(prefect, project):
    name, message, _, table = run_sweep(prefect, project, variants={"full": {}}, seeds=[1, 13])
    assert name == "Failed"
    assert message == "1 of 2 experiments failed: error: student: an unlucky number"
    assert table == [{"variant": "full", "W4A4": "89.00% ± 0.00 (1)"}]
