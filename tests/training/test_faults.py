"""A save, rotation or publication that is interrupted at any system call leaves no torn file visible."""

import builtins
import errno
import io
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_run import Tiny, differences

from miipher2.training.checkpoint import load
from miipher2.training.summary import json_path, list_checkpoints

# Every way in which our code reaches the disk; each call is counted before and after it is made.
CALLS = ("open", "fsync", "replace", "rename", "unlink", "link", "mkdir", "rmdir", "close")
EVERY_WRITE = 24  # of the hundreds of writes of one save, every so many is interrupted in the default run


class Fault(BaseException):
    """Raised in the middle of a save."""


class Faults:
    """Counts system calls and calls `strike` at one of them."""

    def __init__(self, strike_at: int, strike: Callable[[], None]) -> None:
        self.strike_at, self.strike, self.count, self.log = strike_at, strike, 0, []

    def tick(self, what: str) -> None:
        """Count one boundary."""
        self.count += 1
        self.log.append(what)
        if self.count == self.strike_at:
            self.strike()

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Count a boundary before and after each call."""
        for name in CALLS:
            patch.setattr(os, name, self._around(name, getattr(os, name)))
        patch.setattr(io, "open", self._around_open(io.open))
        patch.setattr(builtins, "open", self._around_open(builtins.open))

    def _around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **keywords: Any) -> Any:
            self.tick(f"before {name}")
            result = call(*args, **keywords)
            self.tick(f"after {name}")
            return result

        return counted

    def _around_open(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(file: Any, mode: str = "r", *args: Any, **keywords: Any) -> Any:
            if "b" not in mode or "w" not in mode:
                return call(file, mode, *args, **keywords)
            self.tick("before open")
            opened = call(file, mode, *args, **keywords)
            self.tick("after open")
            return _HalfWritingFile(opened, self)

        return counted


class _HalfWritingFile:
    """A file with a boundary in the middle of each write, when half of the bytes are there."""

    def __init__(self, file: Any, faults: Faults) -> None:
        self.file, self.faults = file, faults

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.faults.tick("before write")
        self.file.write(view[: len(view) // 2])
        self.file.flush()
        self.faults.tick("half a write")
        self.file.write(view[len(view) // 2 :])
        return len(view)

    def __enter__(self) -> "_HalfWritingFile":
        return self

    def __exit__(self, *failure: Any) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run at step 8, with step 4 beside it, that has published; not to be written to."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    Tiny(folder, steps=8)()
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    Tiny(folder)()
    return folder


def resume(folder: Path) -> None:
    """Resume at step 8: set aside, save at 12, rotate and publish."""
    Tiny(folder, keep_last_n=1)(folder / "checkpoint_8.pt")


def check(folder: Path, whole: Path, where: str) -> None:
    """Check that all visible files are whole, that there are some, and that resuming from the newest works."""
    checkpoints = list_checkpoints(folder)
    assert checkpoints, where
    for _, path in checkpoints:
        load(path)
        assert json_path(path).exists(), where
    published = folder / "published"
    for _, path in list_checkpoints(published) if published.exists() else []:
        load(path)
    assert (folder / "checkpoint_8.pt").exists(), where  # the parent
    step, newest = checkpoints[-1]
    assert differences(newest, whole / newest.name, ("model", "optimizers", "ema", "rng")) == [], where
    Tiny(folder, keep_last_n=1)(newest)
    end = "published/final.safetensors"
    assert (folder / end).read_bytes() == (whole / end).read_bytes(), where
    assert (folder / "history.csv").read_bytes() == (whole / "history.csv").read_bytes(), where
    assert not list(folder.glob(".*.tmp")), where
    assert step <= 12


@pytest.fixture(scope="module")
def boundaries(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the boundaries that a resume passes, in order."""
    for _ in range(2):  # the first time imports more
        folder = tmp_path_factory.mktemp("counted") / "run"
        shutil.copytree(trained, folder)
        faults = Faults(-1, lambda: None)
        with pytest.MonkeyPatch.context() as patch:
            faults.install(patch)
            resume(folder)
    assert len(faults.log) > 300
    assert {f"{when} {name}" for when in ("before", "after") for name in CALLS if name not in ("rmdir",)} <= {
        *faults.log
    }
    return faults.log


def sampled(log: list[str], part: int) -> list[int]:
    """Return every other boundary, counted from 1; of the many writes only some.

    The last call releases the folder's lock: an exception there, in a process that lives on, leaves it locked.
    """
    calls = [at for at, what in enumerate(log, 1) if "write" not in what]
    writes = [at for at, what in enumerate(log, 1) if "write" in what]
    return sorted([*calls[part::2], *writes[part * EVERY_WRITE // 2 :: EVERY_WRITE]])


@pytest.mark.slow
def test_an_exception_at_any_system_call_leaves_every_file_whole(
    trained: Path, whole: Path, tmp_path: Path, boundaries: list[str]
) -> None:
    raise_at(sampled(boundaries[:-2], 0), trained, whole, tmp_path)


def test_a_kill_at_any_system_call_leaves_every_file_whole(
    trained: Path, whole: Path, tmp_path: Path, boundaries: list[str]
) -> None:
    die_at(sampled(boundaries, 1), trained, whole, tmp_path, lambda: os.kill(os.getpid(), signal.SIGKILL), -9)


@pytest.mark.soak  # the default tests take every other call, and some of the many writes
def test_an_exception_at_every_system_call_leaves_every_file_whole(
    trained: Path, whole: Path, tmp_path: Path, boundaries: list[str]
) -> None:
    raise_at(list(range(1, len(boundaries) - 1)), trained, whole, tmp_path)


@pytest.mark.soak
def test_a_kill_at_every_system_call_leaves_every_file_whole(
    trained: Path, whole: Path, tmp_path: Path, boundaries: list[str]
) -> None:
    die_at(list(range(1, len(boundaries))), trained, whole, tmp_path, lambda: os._exit(77), 77)


def raise_at(places: list[int], trained: Path, whole: Path, tmp_path: Path) -> None:
    """Raise an exception at each of the boundaries in turn."""

    def strike() -> None:
        raise Fault

    for at in places:
        folder = tmp_path / f"{at}/run"
        shutil.copytree(trained, folder)
        faults = Faults(at, strike)
        with pytest.MonkeyPatch.context() as patch, pytest.raises((Fault, OSError)):  # noqa: PT012 - rmtree closes twice
            faults.install(patch)
            resume(folder)
        check(folder, whole, f"boundary {at}, {faults.log[-1]}")
        shutil.rmtree(folder.parent)


def die_at(
    places: list[int], trained: Path, whole: Path, tmp_path: Path, strike: Callable[[], None], expected_code: int
) -> None:
    """End a process at each of the boundaries in turn."""
    for at in places:
        folder = tmp_path / f"{at}/run"
        shutil.copytree(trained, folder)
        pid = os.fork()
        if not pid:
            try:
                Faults(at, strike).install(pytest.MonkeyPatch())
                resume(folder)
            finally:
                os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code == expected_code, f"boundary {at} was not reached"
        check(folder, whole, f"boundary {at}")
        shutil.rmtree(folder.parent)


@pytest.mark.parametrize("failed", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_failed_write_is_reported_with_its_own_error(trained: Path, tmp_path: Path, failed: int) -> None:
    """Torch would turn it into a RuntimeError about positions."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    before = {path.name: path.read_bytes() for path in folder.glob("checkpoint_*")}

    def strike() -> None:
        raise OSError(failed, os.strerror(failed))

    class OnWrites(Faults):
        def tick(self, what: str) -> None:
            if "write" in what:
                super().tick(what)

    faults = OnWrites(40, strike)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match=os.strerror(failed)):  # noqa: PT012
        faults.install(patch)
        resume(folder)
    assert faults.count > 39
    assert {path.name: path.read_bytes() for path in folder.glob("checkpoint_*")} == before
    assert not list(folder.glob(".checkpoint*.tmp"))
