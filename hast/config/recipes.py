"""Named sets of parameters: a recipe says how, a size says how much. What a user sets wins.

`hast` is the paper. `best` is what did best in docs/results.md at the same compute. A params file
holds numbers and names no recipe: `hast preset`, `hast init` and `hast recipe` write them, and
which recipe a file follows is found by comparing.
"""

from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from hast.config import tables
from hast.config.section import read_yaml, round_trip
from hast.errors import InputError, one_of

Recipe = Literal["hast", "best"]
Size = Literal["quick", "paper"]
Settings = dict[str, dict[str, Any]]  # by section of params.yaml


class Difference(NamedTuple):
    """A parameter that is not what a recipe sets."""

    name: str  # section.key
    found: Any  # None where it is not there
    wanted: Any


_TABLES = read_yaml(Path(tables.__file__).with_name("recipes.yaml"))


def method_settings(recipe: Any) -> Settings:
    """How: what a recipe sets at any size.

    Raises:
        InputError: there is no such recipe.
    """
    one_of("recipe", recipe, Recipe)
    owned = ((name.split("."), by_recipe[recipe]) for name, by_recipe in _TABLES["recipes"].items())
    return merged({section: {key: value}} for (section, key), value in owned)


def size_settings(size: str, recipe: str) -> Settings:
    """How much: what a size sets.

    Raises:
        InputError: there is no such size.
    """
    one_of("size", size, Size)
    return merged(entries_for(_TABLES["sizes"], recipe, size))


def entries_for(table: Mapping[str, Settings], recipe: str, size: str) -> list[Settings]:
    """What a table says always, at a size, of a recipe, and of both together; later ones win."""
    return [table[key] for key in ("always", size, recipe, f"{size} {recipe}") if key in table]


def differences(params: Mapping[str, Any], recipe: str) -> list[Difference]:
    """Values of the recipe that parameters have otherwise, or not at all."""
    return [
        Difference(f"{section}.{key}", found, value)
        for section, settings in method_settings(recipe).items()
        for key, value in settings.items()
        for found in [(params.get(section) or {}).get(key)]
        if found != value
    ]


def recipe_of(params: Mapping[str, Any]) -> str:
    """The recipe that parameters are nearest to, and what they have otherwise, in words."""
    by_recipe = {str(name): differences(params, name) for name in get_args(Recipe)}
    nearest = min(by_recipe, key=lambda name: len(by_recipe[name]))
    changed = [difference.name for difference in by_recipe[nearest]]
    if not changed:
        return nearest
    values = "value" if len(changed) == 1 else "values"
    return f"{nearest}, {len(changed)} {values} changed: {', '.join(changed)}"


def with_recipe(text: str, recipe: str) -> tuple[str, list[Difference]]:
    """The text of a params file, one that `read_yaml` reads, with the values of a recipe, and what
    that changed.

    Comments, order and all that no recipe owns stay.

    Raises:
        InputError: there is no such recipe, or a section is no mapping.
    """
    yaml = round_trip()
    params = yaml.load(text)
    for section in method_settings(recipe):
        if not isinstance(params.get(section) or {}, dict):
            raise InputError(f"section '{section}' must be a mapping, got {params[section]!r}")
    changed = differences(params, recipe)
    for name, _, value in changed:
        section, _, key = name.partition(".")
        if params.get(section) is None:
            params[section] = {}
        params[section][key] = value
    buffer = StringIO()
    yaml.dump(params, buffer)
    return buffer.getvalue(), changed


def merged(parts: Iterable[Settings]) -> Settings:
    """Section by section and value by value; later parts win."""
    result: Settings = {}
    for part in parts:
        for section, values in part.items():
            result[section] = result.get(section, {}) | values
    return result
