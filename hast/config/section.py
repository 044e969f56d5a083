"""Parameters: read once, at the edge, into frozen models.

Every section has a module of its own in this room; here is what they share. Parameters change
results. What only changes speed (device, threads) is no parameter.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from hast.errors import InputError

if TYPE_CHECKING:  # pydantic has no public name for it
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)


class _Clear(ModelMetaclass):
    """Lets a wrong argument end in one line, where a section is made by its name."""

    def __call__(self, *args: Any, **values: Any) -> Any:
        try:
            return super().__call__(*args, **values)
        except ValidationError as error:
            raise _in_one_line(self.__name__, error) from None


class Section(BaseModel, metaclass=_Clear):
    """Base of all parameter sections: immutable, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


_MOST_ERRORS = 8  # that are shown of one file, which may come from anybody

SectionT = TypeVar("SectionT", bound=Section)


def load_section(path: Path, key: str, section: type[SectionT]) -> SectionT:
    """Read the section `key` of a params file.

    Raises:
        InputError: the file, the key or a value is wrong; the message names `key.field`, the rule
            and the value.
    """
    return section_of(read_yaml(path), key, section, path)


def section_of(params: dict[str, Any], key: str, section: type[SectionT], path: Path) -> SectionT:
    """Validate the section `key` of what a params file holds; errors name `path`.

    Raises:
        InputError: the section is missing, or no mapping, or a value is wrong.
    """
    values = params.get(key)
    if not isinstance(values, dict):
        raise InputError(f"{path}: section '{key}' must be a mapping, got {values!r}")
    return parse_section(values, section, name=f"{path}: {key}")


def parse_section(
    values: dict[str, Any] | bytes, section: type[SectionT], *, name: str
) -> SectionT:
    """Validate plain values, or JSON, into a section; `name` stands before the key in an error."""
    try:
        if isinstance(values, bytes):
            return section.model_validate_json(values)
        return section.model_validate(values)
    except ValidationError as error:
        raise _in_one_line(name, error) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Top level of a params file.

    Raises:
        InputError: the file is missing, is not YAML, or holds no mapping.
    """
    # YAML 1.2 as DVC reads it: to PyYAML (1.1) `1e-3` is a string and `no` is false.
    try:
        values = YAML(typ="safe", pure=True).load(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run from the project's root") from None
    except YAMLError as error:
        line = str(error).replace("\n", " ")
        raise InputError(f"{path}: not valid YAML: {line}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: must hold a mapping of sections, got {type(values).__name__}")
    return values


def write_yaml(path: Path, values: dict[str, Any], *, comment: str) -> None:
    """Write a params file; what it leaves out has the default of its section."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        file.write(f"# Written by `{comment}`. `hast recipe NAME` changes what a recipe decides.\n")
        round_trip().dump(values, file)


def round_trip() -> YAML:
    """Reads and writes YAML with its comments, order and number formats."""
    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 4096  # a long line is the user's
    yaml.preserve_quotes = True
    yaml.representer.add_representer(  # and not an empty place after the colon
        type(None), lambda rep, _: rep.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def flattened(values: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested parameters as dotted names and texts."""
    if not isinstance(values, dict) or not values:
        return [(name, str(values))]
    return [
        pair
        for key, value in values.items()
        for pair in flattened(value, f"{name}.{key}" if name else str(key))
    ]


def _in_one_line(name: str, error: ValidationError) -> InputError:
    said = [_describe(name, e) for e in error.errors()[:_MOST_ERRORS]]
    if error.error_count() > len(said):
        said.append(f"and {error.error_count() - len(said)} more")
    return InputError("; ".join(said))


def _describe(name: str, error: Any) -> str:
    # Of a union, pydantic adds the kind that it tried, such as constrained-int.
    parts = [p for p in error["loc"] if isinstance(p, int) or p.isidentifier()]
    key = ".".join([name, *map(str, parts)])
    if error["type"] == "extra_forbidden":
        unknown = str(error["loc"][-1])
        key = key if unknown.isidentifier() else f"{key}.{unknown!r:.80}"
        return f"{key}: unknown parameter, got {error['input']!r:.300}; remove it or mend its name"
    if error["type"] == "missing":
        return f"{key}: required parameter is missing"
    rule = error["msg"].removeprefix("Value error, ")
    return f"{key}: {rule}, got {error['input']!r:.300}"
