"""Finds sound files below a folder; opens none."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# A file with one of these suffixes that cannot be read is reported, not skipped.
SOUND_SUFFIXES = (
    *(".aac", ".aif", ".aiff", ".au", ".caf", ".flac", ".m4a", ".mp3", ".mp4"),
    *(".oga", ".ogg", ".opus", ".sph", ".w64", ".wav", ".webm", ".wma"),
)


class SoundFiles(NamedTuple):
    """The sound files below a folder in the order of their names, and a count of what was passed over, by reason."""

    paths: list[Path]
    passed_over: Counter[str]

    def passed_over_line(self, folder: Path) -> str:
        """Return a line that says what was passed over; empty if nothing was."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.passed_over.items()))
        return f"{folder}: passed over {self.passed_over.total()}: {reasons}\n" if reasons else ""


def printable(path: Path | str) -> str:
    """Return a path, or a text that names one, in UTF-8: bytes that are not become escapes."""
    return os.fsencode(path).decode(errors="backslashreplace")


def find_sound_files(folder: Path, exclude: Path | None = None) -> SoundFiles:
    """Return the files below a folder that have a suffix of sound, found as `find_files` does."""
    passed_over: Counter[str] = Counter()
    paths = []
    for path in find_files(folder, exclude, passed_over):
        if path.suffix.lower() in SOUND_SUFFIXES:
            paths.append(path)
        else:
            passed_over[path.suffix.lower() or "without a suffix"] += 1
    return SoundFiles(paths, passed_over)


def find_files(folder: Path, exclude: Path | None = None, passed_over: Counter[str] | None = None) -> list[Path]:
    """Return all files below a folder, in the order of their names; hidden files and folders are skipped.

    Links are followed, and a folder that several paths lead to is listed once, by device and inode, so that a circle
    ends. A link that leads nowhere is listed, so that whoever reads it reports it.

    Args:
        exclude: a folder to skip, such as the output folder of an earlier run; ignored where it is `folder` itself.
        passed_over: counts what is skipped, by reason.
    """
    excluded = None if exclude is None or exclude.resolve() == folder.resolve() else exclude.resolve()
    counts: Counter[str] = Counter() if passed_over is None else passed_over
    return sorted(_walk(folder, excluded, set(), counts), key=Path.as_posix)


def _walk(
    folder: Path, excluded: Path | None, visited: set[tuple[int, int]], passed_over: Counter[str]
) -> Iterator[Path]:
    status = folder.stat()
    if excluded is not None and folder.resolve() == excluded:
        passed_over["the output folder"] += 1
        return
    if (status.st_dev, status.st_ino) in visited:
        passed_over["links to a folder that is listed already"] += 1
        return
    visited.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as entries:
        # Real folders before links, so that a file keeps its own path.
        listed = sorted(entries, key=lambda entry: (entry.is_symlink(), entry.name))
    for entry in listed:
        path = folder / entry.name
        if entry.name.startswith("."):
            passed_over["hidden"] += 1
        elif entry.is_dir():
            yield from _walk(path, excluded, visited, passed_over)
        elif entry.is_file() or entry.is_symlink():
            yield path
        else:
            passed_over["pipes, sockets or devices"] += 1
