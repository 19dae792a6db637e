"""Numbers among the arguments of a command."""

from argparse import ArgumentTypeError
from typing import Any


def integer_from_0(text: Any) -> int:
    """An integer of 0 or more."""
    return _integer(text, 0)


def integer_from_1(text: Any) -> int:
    """An integer of 1 or more."""
    return _integer(text, 1)


def _integer(text: Any, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise ArgumentTypeError(f"must be an integer of {least} or more, got {text!r}")
    return number
