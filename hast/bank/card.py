"""Read the card of a bank, trusting nothing in it."""

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hast.bank.record import FORMAT, VERSION, BankCard
from hast.errors import InputError

_MAX_CLASSES = 1_000_000  # counts of each class are held in memory
_UNSHOWN = {"Cc", "Cs"}  # control characters; halves of UTF-16 pairs, which no file can hold


def read_card(store: Path, attributes: dict[str, Any]) -> BankCard:
    """The card in the attributes of a store that may come from anybody.

    Raises:
        InputError: a value is missing, malformed or absurd, or a text cannot be shown.
    """
    if attributes.get("format") != FORMAT:
        raise InputError(f"{store}: not a {FORMAT}; its format is {attributes.get('format')!r}")
    if attributes.get("version") != VERSION:
        raise InputError(
            f"{store}: a bank of version {attributes.get('version')!r}, this program reads version"
            f" {VERSION}; make it again (`dvc repro synthesize`), or ask who shared it to make and"
            " share it again with the same program"
        )
    for text in _texts(attributes):
        if any(unicodedata.category(letter) in _UNSHOWN for letter in text):
            raise InputError(
                f"{store}: its attributes hold {text[:40]!r}, with characters that cannot be shown"
                " or written as UTF-8"
            )
    try:
        card = BankCard.model_validate(attributes)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{store}: attribute {first['loc']}: {first['msg']}") from None
    if card.spec.num_classes > _MAX_CLASSES:
        raise InputError(
            f"{store}: num_classes must be at most {_MAX_CLASSES}, got {card.spec.num_classes}"
        )
    return card


def _texts(value: Any) -> Iterator[str]:
    """Every text and key in a JSON value, however deep."""
    rest = [value]
    while rest:
        value = rest.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            rest += [*value, *value.values()]
        elif isinstance(value, list):
            rest += value
