"""Write docs/parameters.md, the reference of all parameters, from the models that read them.

python docs/parameters.py     # in the project's root

A field's meaning is the docstring below it, its type and range are those that pydantic checks. So
there is one text, where the code is.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from hast.config.params import SECTIONS
from hast.config.recipes import Recipe, method_settings
from hast.config.section import Section

Schema = Mapping[str, Any]  # JSON schema of a parameter

PAGE = Path("docs/parameters.md")
_HEAD = """# Parameters

Everything in `params.yaml`, written by `python docs/parameters.py` from the models that check
it. A value outside its range ends the run with one line before any work. The defaults are the
paper's; `params.yaml` of this repository has smaller numbers for the built-in digits. Pixels are
normalized ones, rates and weights have no unit, accuracies and shares lie in [0, 1].

## recipe

`hast` (the paper) or `best` ([what did best](results.md)) is no parameter: `hast recipe NAME`
writes the values below into the file and leaves all others; `hast preset` and `hast init` write
them too. The report says which recipe a run is nearest to.

{recipes}

## bit_widths

A list of `w<bits>a<bits>`, 2 to 8 bits each: one student for each entry, over one bank.
"""
_NAMES = {"string": "text", "object": "mapping", "boolean": "true or false"}
_BOUNDS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "multipleOf": "multiple of",
    "minItems": "at least",
    "minLength": "at least",
}


def page() -> str:
    """The whole page as Markdown."""
    parts = [_HEAD.format(recipes="\n".join(_recipes()))]
    for name, section in SECTIONS.items():
        parts += [f"\n## {name}\n", *tables(name, section)]
    return "\n".join(parts).rstrip() + "\n"


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


def tables(name: str, section: type[Section]) -> Iterator[str]:
    """What a section is for, a row for each parameter, and then the sections inside it."""
    schema = section.model_json_schema()
    return _tables(name, schema, schema.get("$defs", {}))


def _tables(name: str, section: Schema, inner: Mapping[str, Schema]) -> Iterator[str]:
    fields = section["properties"]
    nested = {field: inner[_reference(s)] for field, s in fields.items() if "$ref" in s}
    yield section["description"].partition("\n")[0] + "\n"
    if len(nested) < len(fields):
        yield "| parameter | type | default | range | meaning |"
        yield "| --- | --- | --- | --- | --- |"
    for field, schema in fields.items():
        if field not in nested:
            meaning = " ".join(schema.get("description", "").split())
            cells = (f"`{field}`", _type(schema), _default(schema), _range(schema), meaning)
            yield f"| {' | '.join(cells)} |"
    for field, schema in nested.items():
        yield f"\n### {name}.{field}\n"
        yield from _tables(f"{name}.{field}", schema, inner)


def _reference(schema: Schema) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        return _reference(schema)
    if "enum" in schema:
        return " or ".join(f"`{choice}`" for choice in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "prefixItems" in schema:
        return f"[{', '.join(map(_type, schema['prefixItems']))}]"
    if schema["type"] == "array":
        return f"list of {_type(schema['items'])}"
    kind = str(schema.get("format", schema["type"]))
    return _NAMES.get(kind, kind)


def _default(schema: Schema) -> str:
    if "default" not in schema:
        return "required"
    value = schema["default"]
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _range(schema: Schema) -> str:
    """Bounds of a value, or of each of a list."""
    parts = [schema, *schema.get("anyOf", ()), schema.get("items", {})]
    parts = [part for part in parts if "prefixItems" not in part]  # the type says how many
    return ", ".join(f"{s} {p[bound]}" for p in parts for bound, s in _BOUNDS.items() if bound in p)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE, file=sys.stderr)
