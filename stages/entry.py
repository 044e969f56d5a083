"""What all stages share at the edge: command line, parameters, errors in one line, wall time."""

import atexit
import functools
import gc
import inspect
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from hast.config.section import SectionT, load_section
from hast.engine import engine
from hast.engine.progress import QUIET
from hast.engine.runtime import make_deterministic
from hast.errors import InputError, TransientError, clear_errors, clear_interrupts, first_line
from hast.files.code import code_fingerprint
from hast.files.tables import read_json, record_timing

In = Annotated[Path, typer.Option(help="Read from here.")]
Out = Annotated[Path, typer.Option(help="Write here.")]
Bits = Annotated[str, typer.Option(help="Code widths, such as w4a4.")]
Device = Annotated[str, typer.Option(envvar="HAST_DEVICE", help="auto, cpu, cuda[:i] or mps.")]
Precision = Annotated[engine.Precision, typer.Option(envvar="HAST_PRECISION", help="Of the loss.")]
Compile = Annotated[engine.Switch, typer.Option(envvar="HAST_COMPILE", help="Compile the loss.")]
Workers = Annotated[
    int, typer.Option(envvar="HAST_WORKERS", min=0, help="Processes; 0 decides by the GPUs.")
]
Quiet = Annotated[bool, typer.Option(envvar=QUIET, help="Show no progress.")]
Seconds = Annotated[
    float, typer.Option(envvar="HAST_CHECKPOINT", min=0, help="Seconds between checkpoints.")
]
Code = Annotated[
    Path | None, typer.Option(exists=True, help="Refuse to run other code than this stands for.")
]
PARAMS = Path("params.yaml")
KEPT = "what earlier stages made is kept; the same command goes on with this one"


def section(name: str, kind: type[SectionT]) -> SectionT:
    """A section of the parameters, checked; see `load_section`."""
    return load_section(PARAMS, name, kind)


def main(run: Callable[..., None], *, kept: str = KEPT) -> None:
    """Run a stage from the command line; its keyword arguments are the options.

    Args:
        run: the stage.
        kept: what Ctrl-C does not lose, and how to go on.
    """
    stage = Path(sys.argv[0]).stem
    atexit.register(gc.freeze)  # the last collection would take half a second, and free nothing

    @functools.wraps(run)
    def command(*, code: Path | None, quiet: bool, **options: Any) -> None:
        if code:
            _check_code(stage, code)
        if quiet:
            os.environ[QUIET] = "1"  # also for processes that the stage starts
        make_deterministic()
        start = time.perf_counter()
        with clear_interrupts(stage, kept=kept):
            run(**options)
        name = f"{stage}@{options['bits']}" if "bits" in options else stage
        if os.environ.get("RANK", "0") == "0":  # of several processes the first one keeps time
            record_timing(name, time.perf_counter() - start)

    _add_common_options(command)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    with clear_errors(stage):
        try:
            app()
        except torch.OutOfMemoryError as error:
            way_out = "Free the device, or set a smaller batch_size"
            raise TransientError(f"{first_line(error)} {way_out}") from None


def _check_code(stage: str, seen: Path) -> None:
    """Without `inputs` before it, DVC would file what new code makes under the old one. This file
    is the first that DVC hands out, so it tells how: banks refuse links, which would lead a stage
    out of the project, and hours would be spent before one does."""
    if seen.is_symlink():
        raise InputError(
            f"{seen} is a link into DVC's cache; run `dvc config cache.type reflink,copy` and `dvc"
            " checkout --relink`"
        )
    if read_json(seen)["code"] != code_fingerprint(f"hast.stages.{stage}"):
        raise InputError(
            f"its code is not the one that {seen} stands for; run `dvc repro inputs`, then this"
            " again"
        )


def _add_common_options(command: Any) -> None:
    """Let Typer see more options than the function that `command` wraps has."""
    signature = inspect.signature(command)
    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, kind, default in (("code", Code, None), ("quiet", Quiet, False))
    ]
    command.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *common])
