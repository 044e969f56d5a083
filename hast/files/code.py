"""The code that a stage runs, and one fingerprint of it: what DVC compares in place of the files.

Everything is read from source and nothing is imported, so that what counts does not depend on what
ran before. What counts is the import closure: a module, what it imports at the top or inside a
function, the packages around them (Python runs their `__init__` too), and so on. Imports under
`if TYPE_CHECKING` never run. A package's face may name under it what its `__getattr__` imports on
first use: `from hast import synthesize` is then followed to `hast.api.samples`, and to nothing else
that the face names.

Each module counts in a normal form, its syntax tree as text. That holds no comments, docstrings or
formatting, so an edited sentence rebuilds nothing; and it leaves out whatever one version of Python
writes into the tree and another does not, so that machines with different ones share results.
(`ast.dump` and `ast.unparse` promise neither.) Package data, such as the report's templates, counts
byte by byte for what imports a module of that package.
"""

import ast
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = "hast"  # only this one is followed


class Source(NamedTuple):
    """What counts of one file."""

    names: frozenset[str]  # dotted, that it imports
    face: Mapping[str, str]  # where what it imports on first use lies, by name
    form: str  # normal form


def code_fingerprint(module: str) -> str:
    """SHA-256 of all code and package data that a module brings along.

    Args:
        module: by its full name, such as `hast.stages.quantize`.
    """
    digest = hashlib.sha256()
    for name in sorted(closure(module)):
        file = _found(name)
        digest.update(f"{name} {_source(file).form}\n".encode())
        for data in _data(file.parent) if file.name == "__init__.py" else ():
            content = hashlib.sha256(data.read_bytes()).hexdigest()
            digest.update(f"{data.relative_to(file.parent).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def stage_names() -> list[str]:
    """Modules of `hast.stages` that are stages: those that hand themselves to its `entry.main`."""
    files = _found("hast.stages").parent.glob("*.py")
    return sorted(file.stem for file in files if "hast.stages.entry.main" in _source(file).names)


def closure(module: str) -> set[str]:
    """The module and all modules of ours that run because of it, by name."""
    found: set[str] = set()
    todo = {module}
    while todo:
        name = todo.pop()
        found.add(name)
        package = {name.rpartition(".")[0]} - {""}
        todo |= (imported(name) | package) - found
    return found


def imported(module: str) -> set[str]:
    """Modules of ours that a module imports itself, by name."""
    return {found for name in _source(_found(module)).names for found in [_home(name)] if found}


@cache
def module_file(name: str) -> Path | None:
    """The source of a module of ours; None for other modules and for attributes."""
    top, *rest = name.split(".")
    spec = find_spec(top) if top == PACKAGE else None  # of a top package: runs nothing
    if spec is None or spec.origin is None:
        return None
    base = Path(spec.origin).parent.joinpath(*rest)
    candidates = (base / "__init__.py", base.with_suffix(".py"))
    return next((file for file in candidates if file.is_file()), None)


@cache
def parse(text: str) -> Source:
    """Read a module's source."""
    tree = ast.parse(text)
    never = [inner for node in tree.body if _never_runs(node) for inner in ast.walk(node)]
    face = {name.rpartition(".")[2]: name for name in _names(never)}
    _Effective().visit(tree)
    return Source(frozenset(_names([*ast.walk(tree)])), face, _normal(tree))


def _source(file: Path) -> Source:
    return parse(file.read_text(encoding="utf-8"))


def _found(module: str) -> Path:
    file = module_file(module)
    assert file, f"{module} has no source"
    return file


def _home(name: str) -> str | None:
    """The module that a dotted name is or lies in."""
    file = module_file(name)
    if file or "." not in name:
        return name if file else None
    outer, _, attribute = name.rpartition(".")
    home = _home(outer)
    lazy = _source(_found(outer)).face.get(attribute) if home == outer else None
    return _home(lazy) if lazy else home


def _data(folder: Path) -> Iterator[Path]:
    """Files of a package that are no code, in order."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__pycache__")):
            continue
        if path.is_file() and path.suffix != ".py":
            yield path
        elif path.is_dir() and not (path / "__init__.py").is_file():
            yield from _data(path)


def _names(nodes: Sequence[ast.AST]) -> Iterator[str]:
    """What is imported: modules, and what is taken from them by `from` or through a dot."""
    modules: dict[str, str] = {}
    for node in nodes:
        match node:
            case ast.Import(names):
                for alias in names:
                    yield alias.name
                    top = alias.name.partition(".")[0]  # which is what `import a.b` binds
                    modules[alias.asname or top] = alias.name if alias.asname else top
            case ast.ImportFrom(module, names, level):
                assert not level, f"line {node.lineno}: relative import; name the whole module"
                yield from (f"{module}.{alias.name}" for alias in names)
    for node in nodes:
        match node:
            case ast.Attribute(ast.Name(name), attribute):
                yield f"{modules.get(name)}.{attribute}"


def _never_runs(node: ast.AST) -> bool:
    match node:
        case ast.If(ast.Name("TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
            return True
    return False


class _Effective(ast.NodeTransformer):
    """Takes out what never runs, does nothing, or only labels: a release alone is no change."""

    def visit(self, node: ast.AST) -> Any:
        self.generic_visit(node)
        match node:
            case ast.If() if _never_runs(node):
                return node.orelse
            case ast.Pass() | ast.Expr(ast.Constant()):
                return None
            case ast.Assign([ast.Name("__all__" | "__version__")]):
                return None
            case ast.JoinedStr(values):
                # 3.12 ends the nested format of f"{x:{width}}" with "", the others do not.
                node.values = [v for v in values if getattr(v, "value", None) != ""]
        return node


# Said by the place in the tree, or by the way it was written: ctx is Load or Store, kind the u of
# u"text".
_IMPLIED = {"ctx", "kind", "type_comment"}


def _normal(node: object) -> str:
    """A syntax tree as text: fields by name, without those that are empty in some Pythons and
    absent in others, such as `type_params`."""
    if isinstance(node, list):
        return f"[{','.join(map(_normal, node))}]"
    if not isinstance(node, ast.AST):
        return ascii(node)  # repr prints those letters as they are that this Python knows
    fields = sorted(
        f"{name}={_normal(value)}"
        for name, value in ast.iter_fields(node)
        if name not in _IMPLIED and value is not None and value != []
    )
    return f"{type(node).__name__}({','.join(fields)})"
