"""Files that are written whole or not at all and survive a power failure, and digests of files."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, Protocol, runtime_checkable


@runtime_checkable
class Openable(Protocol):
    """What can be opened for reading like a file, such as a member of a tar."""

    def open(self) -> Any:
        """Open it for reading bytes."""


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one step: temporary file in the same folder, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        replace_durably(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_durably(temporary: Path, path: Path) -> None:
    """Give a finished file its name; when this returns, file and name survive a power failure."""
    fsync(temporary)
    temporary.replace(path)
    fsync(path.parent)


def fsync(path: Path) -> None:
    """Flush a file's bytes, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(source: Path | Openable) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    opened: Any = source.open("rb") if isinstance(source, Path) else source.open()
    with opened as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_with_sha256(path: Path, write: Callable[[Any], object]) -> str:
    """Write a large file, durable when this returns, and return its sha256; on failure a part of it may remain.

    Two threads follow the file as it grows: one hashes it from the page cache, one flushes it to the disk. So a save
    takes as long as its slowest part, not as all of them.

    Args:
        write: writes into the file-like object that it is given, front to back, as `torch.save` does.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    ended = Event()
    with path.open("wb") as raw, path.open("rb", buffering=0) as written, ThreadPoolExecutor(2) as threads:
        file = _ErrorKeepingFile(raw)
        try:
            digest = threads.submit(_hash_until, written, ended)
            flushing = threads.submit(_flush_until, raw.fileno(), ended)
            write(file)
            raw.flush()
        except RuntimeError:  # torch raises this for a failed write, whatever the reason
            raise file.failure or AssertionError("writing failed, and no write did") from None
        finally:
            ended.set()
        flushing.result()  # the system reports a failed write once, to whoever flushes first
        os.fsync(raw.fileno())
        return digest.result()


def _hash_until(written: BinaryIO, ended: Event) -> str:
    """Return the sha256 of a file that grows until `ended`."""
    digest, buffer = hashlib.sha256(), bytearray(2**22)
    while True:
        is_last = ended.is_set()  # read before the file: nothing is written after it is set
        while count := written.readinto(buffer):  # type: ignore[attr-defined]
            digest.update(memoryview(buffer)[:count])
        if is_last:
            return digest.hexdigest()
        ended.wait(0.002)


def _flush_until(descriptor: int, ended: Event) -> None:
    flush = getattr(os, "fdatasync", os.fsync)  # macOS has only the latter
    while not ended.wait(0.05):
        flush(descriptor)


class _ErrorKeepingFile:
    """Passes writes on, and keeps the error of a failed one, which torch hides."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.failure: BaseException | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except BaseException as error:
            self.failure = error
            raise

    def flush(self) -> None:
        """Do nothing: `write_with_sha256` flushes once, at the end."""
