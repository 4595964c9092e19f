"""Tar shards with any members, and sounds as bytes to put into them."""

import io
import tarfile
from pathlib import Path

import numpy as np

from miipher2.audio.io import write_audio


def encoded(wave: np.ndarray, tmp_path: Path, suffix: str = ".flac") -> bytes:
    """Return a sound file's bytes."""
    path = tmp_path / f"one{suffix}"
    write_audio(path, wave, 16000)
    return path.read_bytes()


def write_shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path
