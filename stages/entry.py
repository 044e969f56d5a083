"""What all stages share at the edge: command line, errors in one line, wall time."""

import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from hast import engine
from hast.errors import TransientError, clear_errors
from hast.runtime import make_deterministic
from hast.storage.timings import record_timing

In = Annotated[Path, typer.Option(help="Read from here.")]
Out = Annotated[Path, typer.Option(help="Write here.")]
Bits = Annotated[str, typer.Option(help="Code widths, such as w4a4.")]
Device = Annotated[str, typer.Option(envvar="HAST_DEVICE", help="auto, cpu, cuda[:i] or mps.")]
Precision = Annotated[engine.Precision, typer.Option(envvar="HAST_PRECISION", help="Of the loss.")]
Compile = Annotated[engine.Switch, typer.Option(envvar="HAST_COMPILE", help="Compile the loss.")]
Workers = Annotated[
    int, typer.Option(envvar="HAST_WORKERS", min=0, help="Processes; 0 decides by the GPUs.")
]
Cluster = Annotated[
    str, typer.Option(envvar="HAST_CLUSTER", help="Dask scheduler, such as tcp://host:8786.")
]
Store = Annotated[
    str, typer.Option(envvar="HAST_STORE", help="Folder or URL that all workers of it reach.")
]
Params = Annotated[Path, typer.Option(help="Parameter file.")]
PARAMS = Path("params.yaml")


def main(run: Callable[..., None]) -> None:
    """Run a stage from the command line; its keyword arguments are the options."""
    stage = Path(sys.argv[0]).stem

    @functools.wraps(run)
    def command(**options: Any) -> None:
        make_deterministic()
        start = time.perf_counter()
        run(**options)
        name = f"{stage}@{options['bits']}" if "bits" in options else stage
        if os.environ.get("RANK", "0") == "0":  # of several processes the first one keeps time
            record_timing(name, time.perf_counter() - start)

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    with clear_errors(stage), _full_memory_may_pass():
        app()


@contextmanager
def _full_memory_may_pass() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).splitlines()[0]
        raise TransientError(f"{reason} Free the device, or set a smaller batch_size") from None
