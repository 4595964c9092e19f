"""Faults of a sound file that no decoder reports: cut off, joined, longer than its header counts. Decodes nothing.

Each function returns the fault as text that follows the file's name, or None.
"""

import io
import re
from collections.abc import Iterator
from io import BufferedReader
from typing import NamedTuple

# The start of a second file behind the first, of which decoders read the first one only.
SECOND_FILE = {
    b"RIFF": rb"RIFF.{4}WAVE",
    b"RF64": rb"RF64.{4}WAVE",
    b"FORM": rb"FORM.{4}AIF[FC]",
    b".snd": rb"\.snd\0\0\0.....\0\0\0[\x01-\x1b]\0",
    b"riff": rb"riff\x2e\x91\xcf\x11",
    b"caff": rb"caff\0\x01\0\0desc",
    b"fLaC": rb"fLaC\0\0\0\x22",
    b"mp4 ": rb"\0\0\0.ftyp",
}
# libsndfile's log of a chunk whose size differs from what follows, and of the place where it stopped reading chunks.
WRONG_SIZE = re.compile(r"^\s*(?:data|SSND|BODY|Data Size  |  Riff size|riff) : (\d+) \(should be (\d+)\)", re.M)
UNKNOWN_CHUNK = re.compile(r"^\*\*\* Unknown chunk marker .* at position (\d+)\. Exiting parser", re.M)
# Sizes that programs write before they know the length.
PLACEHOLDERS = (range(1), range(0x7FFFF000, 0x80000001), range(0xFFFFF000, 0x100000000))


class Page(NamedTuple):
    """A page of an Ogg file; each stream, one after or beside another, starts with a first page."""

    is_first: bool
    serial: bytes
    number: int
    end_byte: int


def pcm_fault(log: str, file: BufferedReader, samples: int, bytes_per_second: int) -> str | None:
    """Return what is wrong with the sizes in the header of a file of PCM.

    Args:
        log: libsndfile's, of opening the file.
        samples: as the header counts them.
    """
    for promised, actual in WRONG_SIZE.findall(log):
        if int(promised) > int(actual) and not any(int(promised) in sizes for sizes in PLACEHOLDERS):
            return f"is cut off: holds {actual} bytes of audio; its header promises {promised}"
    file.seek(0)
    nist = re.search(rb"^NIST_1A\n.*sample_count -i (\d+)", file.read(1024), re.S)
    if nist is not None and samples < int(nist[1]):
        return f"is cut off: holds {samples} samples; its header promises {int(nist[1])}"
    if (match := UNKNOWN_CHUNK.search(log)) is not None:
        left_over = file.seek(0, io.SEEK_END) - int(match[1])
        if left_over > bytes_per_second:  # more than a tag
            return f"holds {left_over} bytes after the {samples} samples that its header counts; it should count all"
    return None


def joined_fault(file: BufferedReader) -> str | None:
    """Return where a second file follows in the same bytes, which no decoder would show."""
    file.seek(0)
    start = file.read(12)
    pattern = SECOND_FILE.get(b"mp4 " if start[4:8] == b"ftyp" else start[:4])
    if pattern is None:
        return None
    window, position = start[1:], 1
    while block := file.read(2**20):
        window += block
        if (match := re.search(pattern, window, re.S)) is not None:
            return f"is several files joined, the second one at byte {position + match.start()}; it should be one file"
        position += len(window[:-32])
        window = window[-32:]
    return None


def mp3_fault(file: BufferedReader, frames: int) -> str | None:
    """Return whether an MP3 file's Xing header promises more than the frames that were decoded.

    Source: the Xing header as LAME writes it (mark, flags, number of frames).
    """
    file.seek(0)
    start = file.read(10)
    skip = 0
    if start[:3] == b"ID3":  # its size has seven bits in each byte
        skip = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(start[6:10], (21, 14, 7, 0), strict=True))
    file.seek(skip)
    match = re.search(rb"(?:Xing|Info)\0\0\0([\0-\x0f])(.{4})", file.read(4096), re.S)
    promised = int.from_bytes(match[2], "big") if match is not None and match[1][0] & 1 else 0
    return f"is cut off after {frames} frames; its header promises {promised}" if frames < promised else None


def ogg_fault(file: BufferedReader) -> str | None:
    """Return which page of an Ogg file is missing or cut off."""
    numbers: dict[bytes, int] = {}
    end_byte = 0
    for page in ogg_pages(file):
        expected = page.number if page.is_first else numbers.get(page.serial, page.number)
        if page.number != expected:
            return f"lacks its Ogg page {expected}; it should hold all"
        numbers[page.serial], end_byte = page.number + 1, page.end_byte
    is_cut = end_byte > file.seek(0, io.SEEK_END)
    return "is cut off inside its last Ogg page; it should be whole" if is_cut else None


def ogg_pages(file: BufferedReader) -> Iterator[Page]:
    """Yield the pages of an Ogg file; one that is cut off ends behind the file.

    Source: RFC 3533, section 6.
    """
    size, position = file.seek(0, io.SEEK_END), 0
    while position < size:
        file.seek(position)
        header = file.read(27 + 255)
        if header[:4] != b"OggS":  # what follows the last page, such as a tag, or lies between two files
            file.seek(position)
            following = file.read(2**16).find(b"OggS", 1)
            if following < 0:
                return
            position += following
            continue
        header += bytes(max(0, 27 - len(header)))
        position += 27 + header[26] + sum(header[27 : 27 + header[26]])
        yield Page(bool(header[5] & 2), header[14:18], int.from_bytes(header[18:22], "little"), position)
