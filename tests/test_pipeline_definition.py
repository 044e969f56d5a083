"""dvc.yaml against the code it runs."""

import ast
import re

import pytest
from conftest import ROOT
from ruamel.yaml import YAML

from hast.config.params import SECTIONS
from hast.files.code import stage_names

DEFINITION = YAML(typ="safe").load(ROOT / "dvc.yaml")
STAGES = DEFINITION["stages"]


def test_every_stage_depends_on_its_own_code_and_can_be_read_on_a_few_screens():
    assert stage_names() == sorted(STAGES)
    for stage, definition in STAGES.items():
        code = [d for d in definition.get("deps", []) if d.startswith("artifacts/code")]
        assert code == ([] if stage == "inputs" else [f"artifacts/code/{stage}.json"])
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) <= 200


def sections_loaded_by(stage: str) -> set[str]:
    """Sections that the stage's source asks for by name."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / f"stages/{stage}.py").read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "section":
                found.add(ast.literal_eval(node.args[0]))
            if node.func.id == "read_run":  # the report shows the whole file
                found |= {"bit_widths", *SECTIONS}
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_declared_parameters_are_those_the_stage_loads(stage):
    sections = {name.partition(".")[0] for name in STAGES[stage].get("params", [])}
    assert sections == sections_loaded_by(stage)


def test_every_section_of_the_params_file_is_loaded_by_a_stage():
    top_level = set(YAML(typ="safe").load(ROOT / "params.yaml"))
    assert top_level == {"bit_widths", *SECTIONS}
    assert top_level == set().union(*map(sections_loaded_by, STAGES))


@pytest.mark.parametrize("stage", STAGES)
def test_the_command_names_every_file_the_stage_reads_or_writes(stage):
    definition = STAGES[stage]
    words = set(definition["cmd"].split())
    read = definition.get("deps", [])
    written = [w for key in ("outs", "metrics") for w in definition.get(key, [])]
    written += [path for plot in definition.get("plots", []) for path in plot]
    for path in read + written:
        # The report names its folder, which holds all it writes.
        assert path in words or path.rpartition("/")[0] in words, path


@pytest.mark.parametrize("stage", STAGES)
def test_the_options_of_the_command_are_the_stage_functions_parameters(stage):
    options = set(re.findall(r"--(\w+)", STAGES[stage]["cmd"]))
    tree = ast.parse((ROOT / f"stages/{stage}.py").read_text())
    (run,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "run"]
    without_influence = {"device", "precision", "compile", "workers", "cluster", "store"}
    without_influence |= {"overwrite", "checkpoint"}
    arguments = {argument.arg for argument in run.args.kwonlyargs}
    assert options - {"code"} == arguments - without_influence
