"""Errors that end with one clear line instead of a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TRY_AGAIN = 75  # exit code of what may pass when tried again; EX_TEMPFAIL of sysexits.h
INTERRUPTED = 130  # exit code, as shells have it: 128 + SIGINT


class HastError(Exception):
    """Something the user can mend; the message names thing, rule, value and way out."""


class InputError(HastError, ValueError):
    """A parameter, file or network that the user gave breaks a rule."""


class TransientError(HastError):
    """Nothing is wrong with what the user gave; the same may pass when it is tried again."""


class NonFiniteLossError(HastError, ArithmeticError):
    """A loss became NaN or infinite."""

    def __init__(self, loop: str, step: int, cause: str) -> None:
        super().__init__(f"{loop}: the loss is not finite by step {step}; likely cause: {cause}")
        self._arguments = (loop, step, cause)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments  # so that a worker process can hand it over


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
    `TRY_AGAIN`; anything else is our own error and keeps its traceback."""
    try:
        yield
    except HastError as error:
        print(f"error: {program}: {error}", file=sys.stderr)
        raise SystemExit(TRY_AGAIN if isinstance(error, TransientError) else 2) from None
