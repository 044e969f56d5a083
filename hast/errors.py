"""Errors that end with one clear line instead of a traceback."""


class HastError(Exception):
    """Something the user can mend; the message names thing, rule, value and way out."""


class InputError(HastError, ValueError):
    """A parameter, file or network that the user gave breaks a rule."""


class NonFiniteLossError(HastError, ArithmeticError):
    """A loss became NaN or infinite."""

    def __init__(self, loop: str, step: int, cause: str) -> None:
        super().__init__(f"{loop}: the loss is not finite by step {step}; likely cause: {cause}")
