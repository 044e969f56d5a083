"""What all stages share at the edge: command line, errors in one line, wall time."""

import functools
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from hast.errors import HastError
from hast.runtime import make_deterministic
from hast.storage.tables import write_json

# Outside DVC: a wall time differs from run to run, and artifacts must not.
TIMINGS = Path(".timings")
_CURVE_ROWS = 200

In = Annotated[Path, typer.Option(help="Read from here.")]
Out = Annotated[Path, typer.Option(help="Write here.")]
Bits = Annotated[str, typer.Option(help="Code widths, such as w4a4.")]
Params = Annotated[Path, typer.Option(help="Parameter file.")]
PARAMS = Path("params.yaml")


def main(run: Callable[..., None]) -> None:
    """Run a stage from the command line; its keyword arguments are the options."""
    stage = sys.argv[0].rpartition("/")[2].removesuffix(".py")

    @functools.wraps(run)
    def command(**options: Any) -> None:
        make_deterministic()
        start = time.perf_counter()
        try:
            run(**options)
        except HastError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            print(f"{stage}: interrupted; the same command goes on", file=sys.stderr)
            raise SystemExit(130) from None
        name = f"{stage}@{options['bits']}" if "bits" in options else stage
        write_json(TIMINGS / f"{name}.json", {"seconds": time.perf_counter() - start})

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    app()


class Curve:
    """Keeps evenly spaced records of a loop for a plot."""

    def __init__(self, total: int) -> None:
        self._every = max(1, -(-total // _CURVE_ROWS))
        self._total = total
        self._seen = 0
        self.rows: list[tuple[int, NamedTuple]] = []

    def add(self, record: NamedTuple) -> None:
        if self._seen % self._every == 0 or self._seen == self._total - 1:
            self.rows.append((self._seen, record))
        self._seen += 1

    def table(self) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        """Column names and rows, numbers read back from the device."""
        columns = ("step", *self.rows[0][1]._fields)
        return columns, ([step, *map(float, record)] for step, record in self.rows)
