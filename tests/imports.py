"""Import closures of the project's modules, read from the source without running it."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("hast", "stages", "flows")


@cache
def imported(path: Path) -> frozenset[Path]:
    """Project files that `path` imports directly."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(file for name in names for file in [module_file(name)] if file)


def module_file(name: str) -> Path | None:
    """The file of a module of the project, or None for other modules and for attributes."""
    if name.partition(".")[0] not in PACKAGES:
        return None
    base = ROOT.joinpath(*name.split("."))
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((c for c in candidates if c.is_file()), None)


def closure(path: Path) -> set[Path]:
    """`path` and all project files it imports, directly or not."""
    found: set[Path] = set()
    todo = [path]
    while todo:
        current = todo.pop()
        if current not in found:
            found.add(current)
            # A package's face imports on first use what it names; what is used is named elsewhere.
            todo += [] if current.name == "__init__.py" else imported(current)
    return found
