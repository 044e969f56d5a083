"""Named sets of parameters: a recipe says how, a size says how much. What a user sets wins.

`hast` is the paper. `best` is what did best in docs/results.md at the same compute. The word
`recipe` in a params file decides every value of a recipe that the file leaves out or sets to null.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

from hast.config import SectionT, read_yaml, section_of
from hast.errors import InputError

Recipe = Literal["hast", "best"]
Size = Literal["quick", "paper"]
Settings = dict[str, dict[str, Any]]  # by section of params.yaml

_RECIPES: dict[str, Settings] = {
    "hast": {
        "synthesize": {"init": "gaussian"},
        "layers": {"quantizer": "minmax"},
        "calibrate": {"images": "generator"},
        "quantize": {
            "optimizer": "sgd",
            "schedule": "milestones",
            "learning_rate": 1e-5,
            "scale_rate_factor": 1.0,
            "weight_decay": 1e-4,
            "promotion_step": 0.01,
        },
    },
    "best": {
        "synthesize": {"init": "pink"},
        "layers": {"quantizer": "learned"},
        "calibrate": {"images": "bank"},
        "quantize": {
            "optimizer": "adamw",
            "schedule": "cosine",
            "learning_rate": 1e-3,
            "scale_rate_factor": 10.0,
            "weight_decay": 0.0,
            "promotion_step": 0.1,
        },
    },
}
_SIZES: dict[str, Settings] = {
    "quick": {
        "generator": {"steps": 400},
        "synthesize": {"samples": 1280, "steps": 400},
        "quantize": {"steps": 600, "milestones": [300, 450]},
    },
    "paper": {
        "generator": {"steps": 800},
        "synthesize": {"samples": 5120, "steps": 1000},
        "quantize": {"steps": 29400, "milestones": [4000, 8000, 12000]},
    },
}


def recipe_settings(recipe: str, size: str) -> Settings:
    """Values of a recipe at a size, by section.

    Raises:
        InputError: there is no such recipe or size.
    """
    return merged([size_settings(size), method_settings(recipe)])


def method_settings(recipe: Any) -> Settings:
    """How: what a recipe sets at any size."""
    return _RECIPES[_known("recipe", recipe, Recipe)]


def size_settings(size: str) -> Settings:
    """How much: what a size sets in any recipe."""
    return _SIZES[_known("size", size, Size)]


def read_params(path: Path) -> dict[str, Any]:
    """All of a params file, with its recipe's values where it leaves them open.

    Raises:
        InputError: the file or the recipe is wrong.
    """
    values = read_yaml(path)
    decided = method_settings(values.get("recipe", "hast"))
    for key, settings in decided.items():
        written = values.get(key)
        if isinstance(written, dict):
            unset = {name: v for name, v in settings.items() if written.get(name) is None}
            values[key] = written | unset
    return values


def load_section_by_recipe(path: Path, key: str, section: type[SectionT]) -> SectionT:
    """Read the section `key` of a params file, with the file's recipe for what it leaves open.

    Raises:
        InputError: the file, the recipe, the key or a value is wrong.
    """
    return section_of(read_params(path), key, section, path)


def merged(parts: Iterable[Settings]) -> Settings:
    """Section by section and value by value; later parts win."""
    result: Settings = {}
    for part in parts:
        for section, values in part.items():
            result[section] = result.get(section, {}) | values
    return result


def _known(what: str, name: Any, names: Any) -> str:
    if name not in get_args(names):
        raise InputError(f"{what} must be one of {', '.join(get_args(names))}, got {name!r}")
    return str(name)
