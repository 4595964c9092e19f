"""Tar shards: an index of their members made once, by which one is opened in a seek; it decodes nothing."""

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from miipher2.audio.files import find_files
from miipher2.audio.io import FileSection

COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")
COMPRESSED_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")  # gz bz2 xz zst lz4


@dataclass(frozen=True)
class Sample:
    """What a shard holds under one key: its sound, and what its JSON says."""

    sound: FileSection
    about: dict[str, Any]


def find_shards(folder: Path) -> list[Path]:
    """Return the tar files below a folder, in the order of their names.

    Raises:
        ValueError: one is compressed, so that no member can be reached without reading all before it.
    """
    files = find_files(folder)
    packed = [path for path in files if path.name.lower().endswith(COMPRESSED_SUFFIXES)]
    shards = [path for path in files if path.suffix.lower() == ".tar"]
    if packed := packed or [path for path in shards if _begins(path).startswith(COMPRESSED_MAGIC)]:
        raise ValueError(
            f"{packed[0]}: is compressed, so that no member can be reached by its place; unpack it to a .tar first"
        )
    return shards


def read_index(shard: Path, sound_suffixes: frozenset[str]) -> tuple[list[Sample], int, str | None]:
    """Return a shard's samples, the number of its other members, and what is wrong with it, if anything.

    Members that share a name up to the first dot of its last part are one sample, as in WebDataset.
    """
    sounds: list[FileSection] = []
    about: dict[str, dict[str, Any]] = {}
    members, fault = _members(shard)
    for section in members:
        suffix = PurePosixPath(section.member).suffix.lower()
        if suffix in sound_suffixes:
            sounds.append(section)
        elif suffix == ".json":
            about[_key(section.member)] = _json(section)
    others = len(members) - len(sounds)
    return [Sample(section, about.get(_key(section.member), {})) for section in sounds], others, fault


def _members(shard: Path) -> tuple[list[FileSection], str | None]:
    """Return a shard's files and what is wrong with it; what comes before the damage is listed."""
    found: list[FileSection] = []
    size = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # it would keep them all
                if member.offset_data + member.size > size:
                    return found, f"is cut off within {member.name}"
                if member.isreg() and member.sparse is None:
                    found.append(FileSection(shard, member.offset_data, member.size, member.name))
            end = archive.offset
    except tarfile.TarError as error:
        return found, f"is damaged after {len(found)} members ({error})"
    # tarfile takes a damaged header for the end; the end is a block of zeros.
    with shard.open("rb") as file:
        file.seek(end)
        block = file.read(tarfile.BLOCKSIZE)
    if block != bytes(tarfile.BLOCKSIZE):
        return found, f"is damaged or cut off after {len(found)} members"
    return found, None


def _begins(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def _key(name: str) -> str:
    """Return a member's name up to the first dot of its last part."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.partition(".")[0] or path.name))


def _json(section: FileSection) -> dict[str, Any]:
    """Return what a JSON member says; one that is no JSON object says nothing."""
    with section.open() as file:
        try:
            values = json.loads(file.read())
        except ValueError:
            return {}
    return values if isinstance(values, dict) else {}
