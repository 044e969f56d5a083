"""Pages that load nothing: a template, filled, with the style inside."""

from pathlib import Path
from typing import Any

from hast.errors import needs
from hast.report import templates
from hast.report.figures.canvas import to_data_uri, to_png, to_svg

_TEMPLATES = Path(templates.__file__).parent


def fill(name: str, **values: Any) -> str:
    """The template `name` as an HTML page.

    Raises:
        InputError: Jinja2 is not installed.
    """
    with needs("'hast[report]'"):
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "share": lambda value: _known(value, ".2%"),
        "svg": lambda figure, name, caption: Markup(to_svg(figure, name, description=caption)),
        "png": lambda figure: to_data_uri(to_png(figure, dpi=110)),
        "decibel": lambda value: _known(value, ".1f"),
        "number": lambda value: _known(value, ".3g"),
    }
    return environment.get_template(name).render(**values)


def _known(value: Any, form: str) -> str:
    """A number or its text; nothing for what is not known."""
    number = float(value) if value not in (None, "") else float("nan")
    return "" if number != number else format(number, form)
