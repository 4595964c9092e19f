"""Finds sound files below a folder; opens none."""

import os
from collections.abc import Iterator
from pathlib import Path

# A file with one of these suffixes that cannot be read is reported, not skipped.
SOUND_SUFFIXES = (
    *(".aac", ".aif", ".aiff", ".au", ".caf", ".flac", ".m4a", ".mp3", ".mp4"),
    *(".oga", ".ogg", ".opus", ".sph", ".w64", ".wav", ".webm", ".wma"),
)


def find_sound_files(folder: Path, exclude: Path | None = None) -> list[Path]:
    """Return the files below a folder that have a suffix of sound, in the order of `find_files`."""
    return [path for path in find_files(folder, exclude) if path.suffix.lower() in SOUND_SUFFIXES]


def find_files(folder: Path, exclude: Path | None = None) -> list[Path]:
    """Return all files below a folder, in the order of their names; hidden files and folders are skipped.

    Links are followed, and a folder that several paths lead to is listed once, so that a circle ends. A link that leads
    nowhere is listed, so that whoever reads it reports it.

    Args:
        exclude: a folder to skip, such as the output folder of an earlier run; ignored where it is `folder` itself.
    """
    excluded = None if exclude is None or exclude.resolve() == folder.resolve() else exclude.resolve()
    return sorted(_walk(folder, excluded, set()), key=Path.as_posix)


def _walk(folder: Path, excluded: Path | None, visited: set[tuple[int, int]]) -> Iterator[Path]:
    status = folder.stat()
    if (status.st_dev, status.st_ino) in visited or (excluded is not None and folder.resolve() == excluded):
        return
    visited.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as entries:
        # Real folders before links, so that a file keeps its own path.
        listed = sorted(entries, key=lambda entry: (entry.is_symlink(), entry.name))
    for entry in listed:
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        if entry.is_dir():
            yield from _walk(path, excluded, visited)
        elif entry.is_file() or entry.is_symlink():  # no pipe or socket
            yield path
