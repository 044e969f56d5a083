"""Where all figures begin and end: one style, and figures as SVG or PNG."""

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hast.errors import needs

with needs("'hast[report]'"):
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

# Okabe and Ito's palette: told apart by colour-blind people, on white and on black.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A6FDF")
_INK = "#0a0b0c"  # stands for `currentColor`, which matplotlib does not know
_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 9,
    "grid.alpha": 0.25,
    "grid.color": _INK,
    "legend.frameon": False,
    "text.parse_math": False,  # names are anybody's
    "svg.fonttype": "none",  # text stays text: small, selectable, read by screen readers
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}

__all__ = ["PALETTE", "Axes", "Figure", "canvas", "scale_by_log", "to_data_uri", "to_png", "to_svg"]

_NARROW = 30.0  # less than this between the ends of a logarithmic axis needs ticks inside a decade


@contextmanager
def canvas(
    rows: int = 1, columns: int = 1, *, width: float = 6.4, height: float = 3.0
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with its axes in reading order; what is drawn inside the context has our style.

    Args:
        rows, columns: of axes.
        width, height: inches.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        yield figure, [*axes.flat]


def scale_by_log(axes: Axes) -> None:
    """Make the vertical axis logarithmic with plain numbers at its ticks; call it after drawing."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < _NARROW else (1,)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def to_png(figure: Figure, *, dpi: int = 144) -> bytes:
    """The figure as PNG on white."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(
            buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None}
        )
    return buffer.getvalue()


def to_data_uri(png: bytes) -> str:
    """A PNG as the `src` of an image in a page that loads nothing."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def to_svg(figure: Figure, name: str, *, description: str) -> str:
    """The figure as an SVG element to put into a page, in the page's text colour.

    Args:
        figure: made by this package.
        name: unique in the page; stands before all ids, which belong to the whole page.
        description: what a screen reader says.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", svg)
    # The page scales it: a size in points would overflow a phone.
    svg = re.sub(r'\s(?:height|width)="[\d.]+pt"', "", svg, count=2)
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
