"""Write the reference of all parameters from the models that read them.

A field's meaning is what stands beside it in the source: its comment, or its line of `Attributes`
in the docstring of its section. So there is one text, where the code is.
"""

import ast
import inspect
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen, MultipleOf
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hast.config import Section
from hast.recipes import Recipe, method_settings
from stages.params import SECTIONS

PAGE = Path("docs/parameters.md")
_HEAD = """# Parameters

Everything in `params.yaml`, written by `python -m stages.reference` from the models that check it.
A value outside its range ends the run with one line before any work. The defaults are the paper's;
`params.yaml` of this repository has smaller numbers for the built-in digits. Pixels are normalized
ones, rates and weights have no unit, accuracies and shares lie in [0, 1].

## recipe

`hast` (the paper) or `best` ([what did best](results.md)) is no parameter: `hast recipe NAME`
writes the values below into the file and leaves all others; `hast preset` and `hast init` write
them too. The report says which recipe a run is nearest to.

{recipes}

## bit_widths

A list of `w<bits>a<bits>`, 2 to 8 bits each: one student for each entry, over one bank.
"""
_NAMES = {
    str: "text",
    dict: "mapping",
    Path: "path",
    float: "number",
    int: "integer",
    bool: "true or false",
}
# What a field means wherever nothing else is said.
_COMMON = {
    "alignment_modules": "names or patterns of modules; empty finds the residual bodies",
    "batch_size": "images in a step",
    "class_names": "one for each class, in the order of the logits",
    "enabled": "whether it is done at all",
    "input_shape": "[C, H, W] of one image, in pixels",
    "learning_rate": "at the start",
    "mean": "per channel, in pixels of [0, 1]",
    "min_crop_scale": "smallest share of the area that a random crop keeps",
    "min_learning_rate": "where the learning rate stops falling",
    "num_classes": "number of logits",
    "samples": "number of images",
    "seed": "of all random numbers of the stage",
    "std": "per channel, in pixels of [0, 1]; normalized pixel = (pixel − mean) / std",
    "steps": "steps of the optimizer",
    "weight_decay": "of the optimizer",
}
_BOUNDS = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}


def page() -> str:
    """The whole page as Markdown."""
    parts = [_HEAD.format(recipes="\n".join(_recipes()))]
    for name, section in SECTIONS.items():
        parts += [f"\n## {name}\n", _intro(section), *_tables(name, section)]
    return "\n".join(part for part in parts if part).rstrip() + "\n"


def _recipes() -> Iterator[str]:
    """A table of what the recipes decide."""
    names = get_args(Recipe)
    yield f"| parameter | {' | '.join(f'`{name}`' for name in names)} |"
    yield "| --- |" + " --- |" * len(names)
    settings = [method_settings(name) for name in names]
    for section, values in settings[0].items():
        for key in values:
            cells = (f"`{chosen[section][key]}`" for chosen in settings)
            yield f"| `{section}.{key}` | {' | '.join(cells)} |"


def descriptions(section: type[Section]) -> dict[str, str]:
    """What stands beside each field in the source."""
    return _from_docstring(section) | _from_comments(section)


def _tables(name: str, section: type[Section]) -> Iterator[str]:
    texts, nested = descriptions(section), []
    rows = ["| parameter | type | default | range | meaning |", "| --- | --- | --- | --- | --- |"]
    for field, info in section.model_fields.items():
        kind = info.annotation
        if inspect.isclass(kind) and issubclass(kind, Section):
            nested.append((f"{name}.{field}", kind))
            continue
        cells = (
            f"`{field}`",
            _type(kind),
            _default(info),
            _range(info),
            texts.get(field) or _COMMON.get(field, ""),
        )
        rows.append(f"| {' | '.join(cells)} |")
    if len(rows) > 2:
        yield "\n" + "\n".join(rows)
    for inner, kind in nested:
        yield f"\n### {inner}\n"
        yield _intro(kind)
        yield from _tables(inner, kind)


def _intro(section: type[Section]) -> str:
    return (section.__doc__ or "").partition("\n")[0]


def _type(kind: Any) -> str:
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return " or ".join(f"`{choice}`" for choice in inner)
    if get_origin(kind) is Annotated:
        return _type(inner[0])
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_type, inner))
    if get_origin(kind) is tuple:
        many = inner[1:] == (...,)
        return f"list of {_type(inner[0])}" if many else f"[{', '.join(map(_type, inner))}]"
    if kind is NoneType:
        return "null"
    return _NAMES.get(get_origin(kind) or kind) or str(kind.__name__)


def _default(info: FieldInfo) -> str:
    if info.default is PydanticUndefined:
        return "required"
    value = info.default
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
    if isinstance(value, tuple):
        text = [*value]
    return f"`{text}`"


def _range(info: FieldInfo) -> str:
    found = []
    for rule in info.metadata:
        for kind, (sign, attribute) in _BOUNDS.items():
            if isinstance(rule, kind):
                found.append(f"{sign} {getattr(rule, attribute)}")
        if isinstance(rule, MultipleOf):
            found.append(f"multiple of {rule.multiple_of}")
        if isinstance(rule, MinLen):
            found.append(f"at least {rule.min_length}")
    return ", ".join(found)


def _from_comments(section: type[Section]) -> dict[str, str]:
    source = inspect.getsource(section)
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    (body,) = ast.parse(source).body
    assert isinstance(body, ast.ClassDef)
    return {
        node.target.id: comments[line]
        for node in body.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        if line in comments
    }


def _from_docstring(section: type[Section]) -> dict[str, str]:
    text = (inspect.getdoc(section) or "").partition("Attributes:\n")[2]
    found = re.findall(r"^ {4}([\w, ]+): (.*(?:\n {8}.*)*)", text, flags=re.MULTILINE)
    return {
        name.strip(): re.sub(r"\s+", " ", meaning).rstrip(".")
        for names, meaning in found
        for name in names.split(",")
    }


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE, file=sys.stderr)
