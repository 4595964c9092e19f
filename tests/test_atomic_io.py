"""Files appear whole under any name that the file system allows, and on file systems that lack something."""

import errno
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from miipher2.atomic_io import fsync, link_or_copy, move, temporary_name, write_atomically
from miipher2.audio.stream import RecordingWriter

# Stems that with a suffix of four letters are names of 254 or 255 bytes, the most that a file system allows.
LONG_STEMS = ["a" * 251, "声" * 83, "é" * 125, "🎙" * 62, os.fsdecode(b"\xff" * 251)]


@pytest.mark.parametrize("stem", LONG_STEMS, ids=["latin", "kanji", "accents", "emoji", "not UTF-8"])
def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path: Path, stem: str) -> None:
    write_atomically(tmp_path / f"{stem}.txt", b"text")
    with RecordingWriter(tmp_path / f"{stem}.wav", 8_000, 1, 1) as writer:
        writer.write(torch.zeros(1, 1).numpy())
    assert {path.name for path in tmp_path.iterdir()} == {f"{stem}.txt", f"{stem}.wav"}


def test_temporary_names_are_short_hidden_and_differ_between_files_and_writers() -> None:
    names = [temporary_name(name, writer) for name in (*LONG_STEMS, "a", "aa", "a/b") for writer in ("1", "2", "b/1")]
    assert len(set(names)) == len(names)
    assert max(len(os.fsencode(name)) for name in names) <= 86
    assert all(name.startswith(".") and name.endswith(".tmp") for name in names)


def fails(number: int) -> Any:
    def call(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES])
def test_a_folder_that_cannot_be_flushed_is_mentioned_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    monkeypatch.setattr(logging.getLogger("miipher2"), "propagate", True)
    monkeypatch.setattr("miipher2.atomic_io._unflushed_devices", set())
    flush = os.fsync
    refuse = fails(number)
    monkeypatch.setattr(os, "fsync", lambda it: refuse() if os.path.isdir(f"/proc/self/fd/{it}") else flush(it))  # noqa: PTH112
    for name in "abc":
        write_atomically(tmp_path / name, b"")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a", "b", "c"]
    (record,) = caplog.records
    assert f"{tmp_path}: its file system flushes no folders" in record.getMessage()


def test_a_disk_error_while_flushing_is_an_error_and_so_is_a_file_that_cannot_be_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").touch()
    monkeypatch.setattr(os, "fsync", fails(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        fsync(tmp_path)
    monkeypatch.setattr(os, "fsync", fails(errno.EINVAL))
    with pytest.raises(OSError, match="Invalid argument"):
        fsync(tmp_path / "a")


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV])
def test_a_file_that_cannot_be_linked_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    write_atomically(tmp_path / "a", b"text")
    monkeypatch.setattr(os, "link", fails(number))
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"text"
    assert not (tmp_path / "b").samefile(tmp_path / "a")


def test_a_disk_that_is_full_is_an_error_when_linking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "a", b"text")
    monkeypatch.setattr(os, "link", fails(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        link_or_copy(tmp_path / "a", tmp_path / "b")


def test_a_folder_that_cannot_be_renamed_is_copied_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a/inner").mkdir(parents=True)
    write_atomically(tmp_path / "a/inner/file", b"text")
    (tmp_path / "a/link").symlink_to("nowhere")
    monkeypatch.setattr(Path, "rename", fails(errno.EXDEV))
    move(tmp_path / "a", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert (tmp_path / "b/inner/file").read_bytes() == b"text"
    assert (tmp_path / "b/link").readlink() == Path("nowhere")
