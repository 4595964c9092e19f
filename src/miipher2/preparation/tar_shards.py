"""Tar shards: an index of their members by byte offset, so that one is opened with a seek. Decodes nothing."""

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from miipher2.audio.decode import FileSection
from miipher2.audio.files import SOUND_SUFFIXES, find_files
from miipher2.data.transcripts import SUFFIXES, TIMES

COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")
COMPRESSED_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")  # gz bz2 xz zst lz4


@dataclass(frozen=True)
class Sample:
    """The members of a shard with one key: its sound, and the fields of its JSON, or else its text as `text`."""

    sound: FileSection
    fields: dict[str, Any]


def find_shards(folder: Path) -> list[Path]:
    """Return the tar files below a folder, in the order of their names.

    Raises:
        ValueError: one is compressed, so that a member cannot be reached without reading all before it.
    """
    files = find_files(folder)
    compressed = [path for path in files if path.name.lower().endswith(COMPRESSED_SUFFIXES)]
    shards = [path for path in files if path.suffix.lower() == ".tar"]
    if compressed := compressed or [path for path in shards if _magic(path).startswith(COMPRESSED_MAGIC)]:
        raise ValueError(
            f"{compressed[0]}: is compressed, so that no member can be reached by its offset; unpack it to a .tar first"
        )
    return shards


def read_index(shard: Path) -> tuple[list[Sample], int, str | None]:
    """Return a shard's samples, the number of its other members, and what is wrong with it, if anything.

    Members whose names agree up to the first dot of the last part belong to one sample, as in WebDataset.
    """
    sounds: list[FileSection] = []
    fields: dict[str, dict[str, Any]] = {}
    texts: dict[str, str] = {}
    members, fault = _read_members(shard)
    for section in members:
        suffix = PurePosixPath(section.member).suffix.lower()
        if suffix in SOUND_SUFFIXES:
            sounds.append(section)
        elif suffix == ".json":
            fields[_sample_key(section.member)] = _read_json(section)
        elif suffix in SUFFIXES:
            texts[_sample_key(section.member)] = _read_text(section)
    others = len(members) - len(sounds)
    samples = []
    for section in sounds:
        key = _sample_key(section.member)
        samples.append(Sample(section, {"text": texts.get(key, ""), **fields.get(key, {})}))
    return samples, others, fault


def _read_members(shard: Path) -> tuple[list[FileSection], str | None]:
    """Return a shard's files, up to the damage if it is damaged, and what is wrong with it."""
    members: list[FileSection] = []
    size = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # it would keep them all
                if member.offset_data + member.size > size:
                    return members, f"is cut off within {member.name}"
                if member.isreg() and member.sparse is None:
                    members.append(FileSection(shard, member.offset_data, member.size, member.name))
            end = archive.offset
    except tarfile.TarError as error:
        return members, f"is damaged after {len(members)} members ({error})"
    # tarfile takes a damaged header for the end, which is a block of zeros.
    with shard.open("rb") as file:
        file.seek(end)
        block = file.read(tarfile.BLOCKSIZE)
    if block != bytes(tarfile.BLOCKSIZE):
        return members, f"is damaged or cut off after {len(members)} members"
    return members, None


def _magic(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def _sample_key(name: str) -> str:
    """Return a member's name up to the first dot of its last part."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.partition(".")[0] or path.name))


def _read_json(section: FileSection) -> dict[str, Any]:
    """Return the fields of a JSON member; none if it is not a JSON object."""
    with section.open() as file:
        try:
            fields = json.loads(file.read())
        except ValueError:
            return {}
    return fields if isinstance(fields, dict) else {}


def _read_text(section: FileSection) -> str:
    """Return the text of a member; "" if it is not UTF-8, or lists times."""
    with section.open() as file:
        try:
            text: str = file.read().decode("utf-8-sig")
        except UnicodeDecodeError:
            return ""
    return "" if TIMES.match(text) else text
