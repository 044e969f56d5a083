"""The reference page says what the models say."""

import re
from pathlib import Path
from typing import Literal

from conftest import ROOT
from pydantic import Field

from docs import parameters as reference
from hast.config.params import SECTIONS
from hast.config.section import Section


def test_the_page_is_current():
    written = (ROOT / reference.PAGE).read_text()
    assert written == reference.page(), "run `python docs/parameters.py` and commit the page"


def test_every_parameter_has_a_row_with_a_meaning():
    page = reference.page()
    for name, section in SECTIONS.items():
        part = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for field in section.model_fields:
            rows = re.findall(rf"^\| `{field}` \|.*$|^### {name}.{field}$", part, re.MULTILINE)
            assert rows, f"{name}.{field}"
            assert not rows[0].endswith("|  |"), f"say beside {name}.{field} what it means"


class Inner(Section):
    """Inside."""

    deep: float


class Example(Section):
    """An example."""

    first: int = Field(default=3, ge=1, lt=9)
    """One
    text."""
    second: tuple[float, ...] = ()
    third: Literal["a", "b"] | None = None
    """Which one."""
    fourth: Path = Path("x")
    inner: Inner = Inner(deep=1)


def test_a_row_has_type_default_range_and_the_docstring_below_the_field():
    rows = "\n".join(reference.tables("example", Example))
    assert "| `first` | integer | `3` | ≥ 1, < 9 | One text. |" in rows
    assert "| `second` | list of number | `[]` |  |  |" in rows
    assert "| `third` | `a` or `b` or null | `null` |  | Which one. |" in rows
    assert "| `fourth` | path | `x` |  |  |" in rows
    table = rows.partition("### example.inner\n\nInside.\n")[2]
    assert "| `deep` | number | required |  |  |" in table
