"""What a folder of sound files holds: every file decoded once, measured and digested; it knows no splits."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from miipher2 import audio

SILENT_PEAK = 1e-3  # -60 dB of full scale
CLIPPED_VALUES = 3  # so many neighbours at full scale are no chance


@dataclass(frozen=True)
class Found:
    """A readable sound file; `path` is as found under the surveyed folder."""

    path: Path
    sha256: str
    info: audio.AudioInfo
    is_clipped: bool
    is_silent: bool


@dataclass(frozen=True)
class Survey:
    """The sound files below a folder, by path: those that read, and those that do not with the reason."""

    folder: Path
    found: list[Found]
    unreadable: list[tuple[Path, str]]
    other_files: int


def survey(folder: Path) -> Survey:
    """Read every sound file below `folder`, hidden ones aside, in the order of their paths.

    Raises:
        FileNotFoundError: the folder is missing, or is a file.
    """
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "does not exist"
        raise FileNotFoundError(f"{folder}: {what}; it should be a folder of sound files")
    files = list(_files(folder))
    sounds = sorted(path for path in files if path.suffix.lower() in audio.SOUND_SUFFIXES)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as threads:
        results = list(threads.map(_measure, sounds))
    found = [result for result in results if isinstance(result, Found)]
    unreadable = [(path, result) for path, result in zip(sounds, results, strict=True) if isinstance(result, str)]
    return Survey(folder, found, unreadable, len(files) - len(sounds))


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _measure(path: Path) -> Found | str:
    """Return what a file holds, or why it cannot be used."""
    try:
        about = audio.info(path)
        wave, _ = audio.read(path)
        digest = file_digest(path)
    except (audio.AudioError, OSError) as error:
        return str(error).removeprefix(f"{path}: ")
    return Found(path, digest, about, _is_clipped(wave), bool(np.abs(wave).max() < SILENT_PEAK))


def _is_clipped(wave: Float32[np.ndarray, "time"]) -> bool:
    """Say whether some neighbours all lie at full scale."""
    full = np.abs(wave) >= 0.9995
    if full.sum() < CLIPPED_VALUES:
        return False
    runs = np.convolve(full.astype(np.int32), np.ones(CLIPPED_VALUES, dtype=np.int32))
    return bool((runs == CLIPPED_VALUES).any())
