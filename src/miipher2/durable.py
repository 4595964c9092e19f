"""What reaches the disk whole or not at all, and stays there when the power fails."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file in one step: temporary file in the same folder, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Put on the disk what was written into a file, or renamed in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_hashed(path: Path, write: Callable[[Any], object]) -> str:
    """Write a large file, durable when this returns, and return its sha256; a failure may leave a part of it.

    Two threads follow the file as it grows: one hashes what the system has of it, one hands it to the disk. So a save
    takes the time of its slowest part, not of all.

    Args:
        write: writes into the file-like object that it is given, front to back, as `torch.save` does.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    ended = Event()
    with path.open("wb") as raw, path.open("rb", buffering=0) as written, ThreadPoolExecutor(2) as threads:
        file = _RememberingFile(raw)
        try:
            digest = threads.submit(_hash_while, written, ended)
            syncing = threads.submit(_sync_while, raw.fileno(), ended)
            write(file)
            raw.flush()
        except RuntimeError:  # what torch makes of a write that failed, for whatever reason
            raise file.failure or AssertionError("writing failed, and no write did") from None
        finally:
            ended.set()
        syncing.result()  # the system reports a failure to write once, to whoever synchronises first
        os.fsync(raw.fileno())
        return digest.result()


def _hash_while(written: BinaryIO, ended: Event) -> str:
    """Return the sha256 of a file that grows until `ended`."""
    digest, buffer = hashlib.sha256(), bytearray(2**22)
    while True:
        is_last = ended.is_set()  # looked at before reading: what is written later sets it later
        while count := written.readinto(buffer):  # type: ignore[attr-defined]
            digest.update(memoryview(buffer)[:count])
        if is_last:
            return digest.hexdigest()
        ended.wait(0.002)


def _sync_while(descriptor: int, ended: Event) -> None:
    synchronise = getattr(os, "fdatasync", os.fsync)  # macOS has only the latter
    while not ended.wait(0.05):
        synchronise(descriptor)


class _RememberingFile:
    """Passes writes on, and keeps the error of one that failed, which torch hides."""

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
        """Do nothing: `write_hashed` flushes once, at the end."""
