"""Errors that end with one clear line instead of a traceback."""

import inspect
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

TRY_AGAIN = 75  # exit code of what may pass when tried again; EX_TEMPFAIL of sysexits.h
MENDABLE = 2  # exit code of what the user can mend
INTERRUPTED = 130  # exit code, as shells have it: 128 + SIGINT


class HastError(Exception):
    """Something the user can mend; the message names thing, rule, value and way out."""


class InputError(HastError, ValueError):
    """A parameter, file or network that the user gave breaks a rule."""


class TransientError(HastError):
    """Nothing is wrong with what the user gave; the same may pass when it is tried again."""


class HastWarning(UserWarning):
    """Something that a user would want to know, and that stops nothing."""


@contextmanager
def needs(packages: str, *, otherwise: str = "") -> Iterator[None]:
    """Say in one line how to install what an import inside lacks.

    Args:
        packages: as `pip install` takes them.
        otherwise: what else would help.

    Raises:
        InputError: a package is not installed.
    """
    try:
        yield
    except ImportError as error:
        other = otherwise and f", or {otherwise}"
        absent = isinstance(error, ModuleNotFoundError) and error.name
        what = f"{absent} is not installed" if absent else first_line(error)
        raise InputError(f"{what}; run `pip install {packages}`{other}") from None


def first_line(error: Exception) -> str:
    """What an error of another library says, for a message in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def warn(text: str) -> None:
    """Give a `HastWarning` that names the line outside of this package which led here."""
    frame, level = inspect.currentframe(), 1
    while frame and str(frame.f_globals.get("__name__")).startswith("hast."):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, HastWarning, stacklevel=level)


class NonFiniteLossError(HastError, ArithmeticError):
    """A loss became NaN or infinite."""


def one_of(what: str, word: Any, words: Any) -> str:
    """`word`, which must be one of a `Literal`.

    Raises:
        InputError: it is not; `what` says what it is for.
    """
    if word not in get_args(words):
        raise InputError(f"{what} must be one of {', '.join(get_args(words))}, got {word!r}")
    return str(word)


@contextmanager
def clear_interrupts(program: str, *, kept: str) -> Iterator[None]:
    """End the program with one line and exit code 130 on Ctrl-C.

    Args:
        program: what was interrupted.
        kept: what is not lost, and how to go on.
    """
    try:
        yield
    except KeyboardInterrupt:
        print(f"\ninterrupted: {program}: {kept}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


@contextmanager
def clear_errors(program: str) -> Iterator[None]:
    """End the program with one line and exit code 2 where the user can mend something, or
    `TRY_AGAIN`; anything else is our own error and keeps its traceback. A `HastWarning` is one line
    too."""
    usual = warnings.showwarning

    def show(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, HastWarning):
            print(f"warning: {program}: {message}", file=sys.stderr, flush=True)
        else:
            usual(message, category, *place, **more)

    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    except HastError as error:
        print(f"error: {program}: {error}", file=sys.stderr)
        raise SystemExit(TRY_AGAIN if isinstance(error, TransientError) else MENDABLE) from None
