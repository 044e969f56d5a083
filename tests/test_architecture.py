"""The rooms of the project and the one direction in which they import."""

import re

from conftest import ROOT, git

from hast.files.code import closure, imported, stage_names

# A room may import from itself and from those that stand after it.
ROOMS = [
    "hast/__main__", "hast/cli", "hast/flows", "hast/stages", "hast/report", "hast/api",
    "hast/pipeline", "hast/export", "hast/bank", "hast/files", "hast/loops", "hast/networks",
    "hast/engine", "hast/config", "hast/math", "hast/errors", "hast/__init__",
]  # fmt: skip
LEVEL = {room: level for level, room in enumerate(ROOMS)}
PLACES = ("hast", "hast/stages", "hast/flows")  # the last two link to folders beside `hast`
FILES = sorted(path for place in PLACES for path in (ROOT / place).rglob("*.py"))


def module_of(path) -> str:
    name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    return name.removesuffix(".__init__")


def room_of(module: str) -> str:
    return f"hast/{[*module.split('.'), '__init__'][1]}"


def test_imports_go_down():
    upward = [
        f"{module} imports {target}, which is not below it"
        for module in map(module_of, FILES)
        if module != "hast"  # the package's face names what lies in all rooms
        for target in imported(module)
        if room_of(target) != room_of(module) and LEVEL[room_of(target)] <= LEVEL[room_of(module)]
    ]
    assert upward == []


def test_only_the_teacher_and_what_measures_can_open_a_dataset():
    opening = {s for s in stage_names() if "hast.files.datasets" in closure(f"hast.stages.{s}")}
    # `inputs` imports the section's model, and looks at no image.
    assert opening - {"inputs"} == {"teacher", "answers", "evaluate", "export"}


def test_only_the_stage_that_makes_the_bank_can_import_pictures():
    opening = {s for s in stage_names() if "hast.bank.pictures" in closure(f"hast.stages.{s}")}
    assert opening == {"synthesize"}


def test_only_the_dataset_module_knows_a_dataset_library():
    knowing = [p for p in FILES if "sklearn" in p.read_text() or "ImageFolder" in p.read_text()]
    assert knowing == [ROOT / "hast/files/datasets.py"]


def test_the_library_and_the_stages_do_without_dvc_and_prefect():
    importing = re.compile(r"(import|from) (dvc|prefect)")
    assert [p for p in FILES if "flows" not in p.parts and importing.search(p.read_text())] == []


def test_stages_and_flows_are_named_below_the_package():
    alone = re.compile(r"^ *(import|from) (stages|flows)\b|-m (stages|flows)\b", re.MULTILINE)
    ours = {ROOT / name for name in git(ROOT, "ls-files").splitlines()} - {ROOT / "CHANGELOG.md"}
    text = [path for path in sorted(ours) if path.suffix in {"", ".md", ".py", ".sh", ".yaml"}]
    assert [p for p in text if p.is_file() and alone.search(p.read_text())] == []


def test_files_stay_small():
    assert [p for p in FILES if len(p.read_text().splitlines()) > 300] == []
