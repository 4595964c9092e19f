"""Types of command-line values: what an unset shell variable or a slip of the finger gives is refused at once."""

import math
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

MAX_SEED = 2**63 - 1


def text(word: str) -> str:
    """Return a text that is not empty.

    Raises:
        ArgumentTypeError: it is empty.
    """
    if not word:
        raise ArgumentTypeError("is empty; check the shell variable that it came from")
    return word


def path(word: str) -> Path:
    """Return a path; an empty one would be the current folder.

    Raises:
        ArgumentTypeError: it is empty.
    """
    return Path(text(word))


def name_part(word: str) -> str:
    """Return a part of a file name.

    Raises:
        ArgumentTypeError: it would lead into another folder, or break a line.
    """
    if "/" in word or not word.isprintable():
        raise ArgumentTypeError(f"{word!r}: should be a part of a file name, without / or line break")
    return word


def whole(low: int, high: int = MAX_SEED) -> Callable[[str], int]:
    """Return the type of a whole number from `low` to `high`."""

    def parse(word: str) -> int:
        try:
            number = int(word)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            wanted = f"at least {low}" if high == MAX_SEED and low >= 0 else f"from {low} to {high}"
            raise ArgumentTypeError(f"{word!r}: should be a whole number, {wanted}")
        return number

    return parse


def number(low: int | float, high: int | float) -> Callable[[str], float]:
    """Return the type of a number from `low` to `high`."""

    def parse(word: str) -> float:
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise ArgumentTypeError(f"{word!r}: should be a number from {low:g} to {high:g}")
        return value

    return parse
