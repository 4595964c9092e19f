"""A progress bar over utterances, where standard error is a terminal."""

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(items: Iterable[Item], count: int, what: str) -> Iterable[Item]:
    """Return the items, and show how many of `count` have been taken."""
    return tqdm(items, what, count, unit="utterance", dynamic_ncols=True, disable=not sys.stderr.isatty())
