"""Files that are written whole or not at all and survive a power failure, and digests of files.

Not every file system has hard links, flushes folders, or renames them; what it lacks is done in another way.
"""

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, Protocol, runtime_checkable

# What network, FUSE and Windows file systems answer to a request that they do not know.
UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EPERM, errno.EBADF)

log = logging.getLogger(__name__)
_unflushed_devices: set[int] = set()


@runtime_checkable
class Openable(Protocol):
    """What can be opened for reading like a file, such as a member of a tar."""

    def open(self) -> Any:
        """Open it for reading bytes."""


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one step: temporary file in the same folder, fsync, rename, fsync of the folder."""
    temporary = path.with_name(temporary_name(path.name, str(os.getpid())))
    try:
        temporary.write_bytes(data)
        replace_durably(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(name: str, writer_id: str) -> str:
    """Return the name that a file has while it is written: short, so that it fits wherever the file's own name does."""
    digest = hashlib.sha256(os.fsencode(f"{name}/{writer_id}")).hexdigest()
    return f".{name[:16]}.{digest[:16]}.tmp"


def replace_durably(temporary: Path, path: Path) -> None:
    """Give a finished file its name; when this returns, file and name survive a power failure."""
    fsync(temporary)
    temporary.replace(path)
    fsync(path.parent)


def fsync(path: Path) -> None:
    """Flush a file's bytes, or the names in a folder, to the disk; a file system may refuse the latter."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in (*UNSUPPORTED, errno.EACCES, errno.EISDIR) or not path.is_dir():
            raise
        if (device := path.stat().st_dev) not in _unflushed_devices:
            _unflushed_devices.add(device)
            log.warning("%s: its file system flushes no folders (%s); a power failure may lose new files", path, error)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; where the file system has no hard links, copy it, durable when this returns."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (*UNSUPPORTED, errno.EMLINK, errno.EXDEV, errno.EACCES):
            raise
        shutil.copyfile(source, target)
        fsync(target)


def move(source: Path, target: Path) -> None:
    """Rename a file or folder; a folder in an overlay's lower layer cannot be renamed, so it is copied and removed."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV or not source.is_dir():
            raise
        shutil.copytree(source, target, symlinks=True)
        shutil.rmtree(source)


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
