"""The rooms of the project and the one direction in which they import."""

import pytest
from conftest import ROOT

from stages.code import closure, imported, stage_names

# A room may import from itself and from rooms further down.
ROOMS = [
    ["flows"],
    ["stages"],
    ["hast/__main__"],
    ["hast/cli"],
    ["hast/init_cli", "hast/run_cli", "hast/bank_cli", "hast/export_cli"],
    ["hast/network_cli"],
    ["hast/report", "hast/presets"],
    ["hast/bank_facts", "hast/api"],
    ["hast/pipeline"],
    [
        "hast/doctor",
        "hast/offline_plots",
        "hast/summary",
        "hast/inspection",
        "hast/classifier_source",
    ],
    ["hast/export"],
    ["hast/loops", "hast/storage"],  # side by side: neither knows the other
    ["hast/bank"],
    ["hast/networks"],
    ["hast/bit_width", "hast/recipes"],
    ["hast/engine", "hast/distributed", "hast/runtime", "hast/config", "hast/progress"],
    ["hast/machine", "hast/figures"],
    ["hast/math"],
    ["hast/errors"],
    ["hast/__init__"],
]
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
FILES = sorted(p for name in ("hast", "stages", "flows") for p in (ROOT / name).rglob("*.py"))


def module_of(path) -> str:
    name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    return name.removesuffix(".__init__")


def room_of(module: str) -> str:
    name = "hast/__init__" if module == "hast" else module.replace(".", "/")
    rooms = [room for room in LEVEL if name == room or name.startswith(f"{room}/")]
    assert len(rooms) == 1, f"{name} belongs to no room; name it in ROOMS"
    return rooms[0]


# The package's face names what lies in all rooms.
@pytest.mark.parametrize("module", [m for m in map(module_of, FILES) if m != "hast"])
def test_imports_go_down(module):
    room = room_of(module)
    for target in imported(module):
        other = room_of(target)
        assert other == room or LEVEL[other] > LEVEL[room], (
            f"{module} ({room}) imports {target} ({other}), which is not below it"
        )


def test_only_the_teacher_and_what_measures_can_open_a_dataset():
    opening = {s for s in stage_names() if "hast.storage.datasets" in closure(f"stages.{s}")}
    # `inputs` imports the section's model, and looks at no image.
    assert opening - {"inputs"} == {"teacher", "evaluate", "export"}


def test_only_the_dataset_module_knows_a_dataset_library():
    knowing = [p for p in FILES if "sklearn" in p.read_text() or "ImageFolder" in p.read_text()]
    assert knowing == [ROOT / "hast/storage/datasets.py"]


@pytest.mark.parametrize("package", ["hast", "stages"])
def test_the_library_and_the_stages_do_without_dvc_and_prefect(package):
    for path in (ROOT / package).rglob("*.py"):
        text = path.read_text()
        assert "import dvc" not in text
        assert "from dvc" not in text
        assert "import prefect" not in text
        assert "from prefect" not in text


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 300
