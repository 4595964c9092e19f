"""The transcript of a sound file, from a text of the same name beside it."""

import re
from pathlib import Path

SUFFIXES = (".txt", ".lab")
TIMES = re.compile(r"\s*\d+(\.\d+)?\s+\d+(\.\d+)?\s+\S")  # begin, end and label of a segment


def read_beside(path: Path) -> str:
    """Return the transcript beside a sound file, in one line; "" where there is none.

    Raises:
        ValueError: it is not UTF-8, or lists times.
        OSError: it cannot be read.
    """
    text = find_beside(path)
    return "" if text is None else read_text(text)


def find_beside(path: Path) -> Path | None:
    """Return the text of the same name beside a sound file, or None."""
    return next((text for suffix in SUFFIXES if (text := path.with_suffix(suffix)).is_file()), None)


def read_text(path: Path) -> str:
    """Return the transcript that a file holds, in one line.

    Raises:
        ValueError: it is not UTF-8, or lists times.
        OSError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8; should be a transcript") from error
    if TIMES.match(text):
        raise ValueError(f"{path}: lists times; should be the words alone")
    return " ".join(text.split())
