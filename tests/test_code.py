"""The code that a stage runs: what belongs to it, and which edits change its fingerprint."""

import shutil
from collections.abc import Callable, Iterator

import pytest
from conftest import ROOT, python

import hast
from hast.files import code
from hast.files.code import closure, code_fingerprint, parse

FILES = {
    "lib/__init__.py": """
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lib.api import run
__version__ = "1"

def __getattr__(name): ...
""",
    "lib/api.py": "from lib.deep.maths import add\n",
    "lib/deep/__init__.py": "import lib.eager\n",
    "lib/deep/maths.py": "def add(a, b):\n    return a + b\n",
    "lib/eager.py": "",
    "lib/pages/__init__.py": "",
    "lib/pages/page.py": "",
    "lib/pages/templates/page.html": "<p>",
    "lib/work.py": "",
}
MATHS = {"lib.deep", "lib.deep.maths", "lib.eager"}


@pytest.fixture
def write(tmp_path, monkeypatch) -> Iterator[Callable[[str, str], None]]:
    """Writes a file of a small project, of which `lib.work` is the stage."""
    monkeypatch.setattr(code, "PACKAGE", "lib")
    monkeypatch.syspath_prepend(str(tmp_path))

    def to(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    for name, text in FILES.items():
        to(name, text)
    code.module_file.cache_clear()
    yield to
    code.module_file.cache_clear()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import os, torch", set()),
        ("import lib", set()),
        ("from lib import __version__", set()),
        ("import lib.deep.maths", MATHS),
        ("from lib.deep import maths", MATHS),
        ("from lib.deep.maths import add", MATHS),
        ("def f():\n    from lib.deep.maths import add", MATHS),
        ("from lib import run", MATHS | {"lib.api"}),
        ("import lib\nlib.run()", MATHS | {"lib.api"}),
        ("import lib as other\ndef f(): return other.run()", MATHS | {"lib.api"}),
        (
            "if TYPE_CHECKING:\n    import lib.api\nelse:\n    import lib.eager",
            {"lib", "lib.eager"},
        ),
        ("import typing\nif typing.TYPE_CHECKING:\n    from lib import run", set()),
    ],
)
def test_the_closure_is_what_runs(write, source, expected):
    write("lib/work.py", source)
    assert closure("lib.work") == expected | {"lib", "lib.work"}


def test_the_face_names_where_all_that_is_imported_on_first_use_lies():
    face = parse((ROOT / "hast/__init__.py").read_text()).face
    assert {name: home.rpartition(".")[0] for name, home in face.items()} == hast._HOMES


SOURCE = """
class A:
    x: int = 1

def f(a, *, b=u"b"):
    return g(a, b), f"{a:>{b}}"
"""


@pytest.mark.parametrize(
    ("counts", "old", "new"),
    [
        (False, "\nclass", '"""Module."""  # comment\n\nclass'),
        (False, "x: int = 1", '"""Class."""\n    x: int = 1\n    """Attribute."""'),
        (False, "    return", '    """Function."""\n    pass\n    return'),
        (False, "g(a, b)", "g(\n        a,\n        b,\n    )"),
        (False, 'u"b"', "'b'"),
        (False, "\nclass", "if TYPE_CHECKING:\n    import lib.eager\n\nclass"),
        (False, "\nclass", '__version__ = "2"\n__all__ = ["A"]\n\nclass'),
        (True, "= 1", "= 2"),
        (True, "= 1", "= True"),
        (True, "= 1", "= None"),
        (True, "x: int", "x: float"),
        (True, "*, b", "b"),
        (True, "g(a, b)", 'g(a, "b")'),
        (True, ">{b}", "<{b}"),
        (True, "return", "yield"),
        (True, "    return", "    import lib.eager\n    return"),
    ],
)
def test_what_python_computes_counts_and_words_and_layout_do_not(write, counts, old, new):
    write("lib/work.py", SOURCE)
    before = code_fingerprint("lib.work")
    assert old in SOURCE
    write("lib/work.py", SOURCE.replace(old, new))
    assert (code_fingerprint("lib.work") != before) == counts


@pytest.mark.parametrize(
    ("changed", "counts_for"),
    [
        ("lib/deep/maths.py", {"lib.deep.maths", "lib.api"}),
        ("lib/deep/__init__.py", {"lib.deep.maths", "lib.api"}),
        ("lib/pages/templates/page.html", {"lib.pages.page"}),
        ("lib/pages/templates/new.html", {"lib.pages.page"}),
    ],
)
def test_a_change_counts_for_what_imports_it_and_for_nothing_else(write, changed, counts_for):
    modules = ["lib.api", "lib.deep.maths", "lib.eager", "lib.pages.page"]
    before = [code_fingerprint(module) for module in modules]
    write(changed, "print(2)")
    after = [code_fingerprint(module) for module in modules]
    assert {m for m, a, b in zip(modules, before, after, strict=True) if a != b} == counts_for


def test_the_normal_form_is_the_same_in_every_python():
    """What 3.11, 3.12 and 3.13 write into their trees differs: `type_params`, the end of a nested
    format, which letters `repr` shows as they are."""
    source = 'class A(B, c=1): pass\ndef f(a, /): return f"{a!r:>{w}}", u"\U0001fae8", b"", None'
    assert parse(source).form == (
        "Module(body=[ClassDef(bases=[Name(id='B')],keywords=[keyword(arg='c',"
        "value=Constant(value=1))],name='A'),FunctionDef(args=arguments(posonlyargs=[arg(arg='a')])"
        ",body=[Return(value=Tuple(elts=[JoinedStr(values=[FormattedValue(conversion=114,"
        "format_spec=JoinedStr(values=[Constant(value='>'),FormattedValue(conversion=-1,"
        "value=Name(id='w'))]),value=Name(id='a'))]),Constant(value='\\U0001fae8'),"
        "Constant(value=b''),Constant()]))],name='f')])"
    )


def test_an_installed_library_counts_as_its_source_does_and_nothing_is_imported(tmp_path):
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "hast", tmp_path / "site-packages/hast", ignore=ignore)
    probe = (
        "import sys; from hast.files.code import code_fingerprint;"
        " print(code_fingerprint('hast.stages.report'), 'hast.report' in sys.modules)"
    )
    done = python("-c", probe, cwd=tmp_path, PYTHONPATH=str(tmp_path / "site-packages"))
    assert done.stdout.split() == [code_fingerprint("hast.stages.report"), "False"]
