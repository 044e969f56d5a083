"""The stages as functions with the paths that dvc.yaml names, one after the other, for tests."""

from importlib import import_module
from pathlib import Path
from typing import Any

from conftest import ROOT
from ruamel.yaml import YAML

A, M = Path("artifacts"), Path("metrics")
_STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


def options_of(stage: str, bits: str = "w4a4") -> dict[str, str]:
    """What the command of a stage says, but for `--code`."""
    words = _STAGES[stage]["cmd"].replace("${item.bits}", bits).split()
    options = zip(words[3::2], words[4::2], strict=True)
    return {name.removeprefix("--"): value for name, value in options if name != "--code"}


def run(stage: str, bits: str = "w4a4", **others: Any) -> None:
    paths = {name: Path(value) for name, value in options_of(stage, bits).items()}
    width = {"bits": bits} if "bits" in paths else {}
    import_module(f"hast.stages.{stage}").run(**paths | width | others)


def finished_shards(project: Path) -> dict[Path, int]:
    """Their files, with the time when they were written."""
    return {p: p.stat().st_mtime_ns for p in project.glob(".partial/*/done/*.safetensors")}


def run_teacher() -> None:
    run("inputs")
    run("teacher")


def run_generator() -> None:
    run("generator")


def run_synthesize(**options: Any) -> None:
    run("synthesize", overwrite=True, **options)
    run("answers")


def run_bank() -> None:
    run_teacher()
    run_generator()
    run_synthesize()


def run_student(bits: str = "w4a4", *, until: str = "export") -> None:
    """All its stages until one of them, with that one."""
    stages = ["sensitivity", "calibrate", "score", "reconstruct", "quantize", "evaluate", "export"]
    for stage in stages[: stages.index(until) + 1]:
        run(stage, bits)


def run_all(widths: list[str]) -> None:
    run_bank()
    for width in widths:
        run_student(width)
    run("report")
