"""The reference page says what the models say."""

import re
from pathlib import Path
from typing import Literal

from conftest import ROOT
from pydantic import Field

from hast.config import Section
from stages import reference
from stages.params import SECTIONS


def test_the_page_is_current():
    written = (ROOT / reference.PAGE).read_text()
    assert written == reference.page(), "run `python -m stages.reference` and commit the page"


def test_every_parameter_has_a_row_with_a_meaning():
    page = reference.page()
    for name, section in SECTIONS.items():
        part = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for field in section.model_fields:
            rows = re.findall(rf"^\| `{field}` \|.*$|^### {name}.{field}$", part, re.MULTILINE)
            assert rows, f"{name}.{field}"
            assert not rows[0].endswith("|  |"), f"say beside {name}.{field} what it means"


class Example(Section):
    """An example.

    Attributes:
        first, second: one
            text.
    """

    first: int = Field(default=3, ge=1, lt=9)
    second: tuple[float, ...] = ()
    third: Literal["a", "b"] | None = None  # which one
    fourth: Path = Field(default=Path("x"))  # where


def test_meanings_come_from_comments_and_from_the_docstring():
    assert reference.descriptions(Example) == {
        "first": "one text",
        "second": "one text",
        "third": "which one",
        "fourth": "where",
    }


def test_a_row_has_type_default_and_range():
    rows = "\n".join(reference._tables("example", Example))
    assert "| `first` | integer | `3` | ≥ 1, < 9 | one text |" in rows
    assert "| `second` | list of number | `[]` |  | one text |" in rows
    assert "| `third` | `a` or `b` or null | `null` |  | which one |" in rows
