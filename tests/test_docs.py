"""Every command in the docs is run, in the order in which it stands in its page.

A fenced block marked `console` (lines with `$ `) or `bash` is run by bash in a copy of the project
in its smallest form, which has been run once. A block that cannot be run there says why, in a
comment on the line above it:

    <!-- not run: it needs a GPU -->
"""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT, child_environment, copy_project, python

import hast

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+?) -->\n)?"
    r"^(?P<indent> *)```(?P<kind>console|bash|sh|shell)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_ANY_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_PROGRAMS = {"dask", "dvc", "git", "hast", "make", "pip", "prefect", "pytest", "python", "torchrun"}


class Block(NamedTuple):
    line: int
    script: str
    reason: str | None  # why it is not run


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for match in _BLOCK.finditer(text):
        script = textwrap.dedent(match["text"])
        if match["kind"] == "console":
            script = commands(script)
        found.append(Block(text.count("\n", 0, match.start()) + 1, script, match["reason"]))
    return found


def commands(console: str) -> str:
    """The lines after `$ `, with those that continue them (a backslash, or an open quote)."""
    lines: list[str] = []
    is_open = False
    for line in console.splitlines():
        if line.startswith("$ "):
            lines.append(line[2:])
        elif is_open:
            lines.append(line)
        is_open = bool(lines) and (lines[-1].endswith("\\") or errors_in("\n".join(lines)) != "")
    return "\n".join(lines) + "\n"


def errors_in(script: str) -> str:
    """What bash says of a script that it does not run."""
    check = ["bash", "-n"]
    return subprocess.run(check, input=script, text=True, capture_output=True, check=False).stderr


def names(pages: list[Path]) -> list[str]:
    return [page.relative_to(ROOT).as_posix() for page in pages]


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_block_is_a_script_and_what_is_not_run_says_why(page):
    for block in blocks(page):
        assert block.script.strip(), f"{page.name}:{block.line}: no `$ ` in a console block"
        assert errors_in(block.script) == "", f"{page.name}:{block.line}"
        assert block.reason is None or len(block.reason) > 10


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_commands_stand_in_blocks_that_are_marked_as_such(page):
    for _, kind, text in _ANY_FENCE.findall(page.read_text()):
        if not kind:
            starts = {
                line.split()[0].rpartition("/")[2] for line in text.splitlines() if line.strip()
            }
            assert not starts & _PROGRAMS, f"{page.name}: mark this block as `console`: {text}"


def test_the_python_page_runs_and_leaves_out_no_public_name(tmp_path):
    text = (ROOT / "docs/python.md").read_text()
    code = "\n".join(body for _, kind, body in _ANY_FENCE.findall(text) if kind == "python")
    python("-c", code, cwd=tmp_path)
    assert [name for name in hast.__all__ if not re.search(rf"\bhast\.{name}\b", code)] == []


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_console_blocks_hold_commands_and_what_they_print():
    text = '$ one\nprinted\n$ two \\\n    more\n$ python -c "\nx = 1"\nprinted\n'
    assert commands(text) == 'one\ntwo \\\n    more\npython -c "\nx = 1"\n'


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The project after its first run, with this environment in the place of its own."""
    project = copy_project(tmp_path_factory.mktemp("docs") / "project")
    venv, prefix = project / ".venv", Path(sys.prefix)
    venv.mkdir()
    for name in ("bin", "lib", "include"):
        if (prefix / name).exists():
            (venv / name).symlink_to(prefix / name)
    (venv / "pyvenv.cfg").write_text((prefix / "pyvenv.cfg").read_text())
    (venv / ".ready").touch()
    run("make run", project)
    return project


def run(script: str, project: Path) -> None:
    environment = child_environment() | {"PYTHONPATH": str(project), "BROWSER": "true"}
    environment |= {
        f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=project, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stdout[-4000:]}"


RUN = [page for page in PAGES if any(block.reason is None for block in blocks(page))]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs bash")
@pytest.mark.parametrize("page", RUN, ids=names(RUN))
def test_the_commands_of_a_page_work_in_their_order(page, built, tmp_path):
    project = tmp_path / "project"
    subprocess.run(["cp", "-a", str(built), str(project)], check=True)
    # One shell for a page, so that what a block sets is there in the next.
    run("\n".join(block.script for block in blocks(page) if block.reason is None), project)
