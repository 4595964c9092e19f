"""Disks that are full, read-only or somewhere else, and a folder that two processes want."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import Tiny

from miipher2.training import checkpoint, run_dir
from miipher2.training.checkpoint import load
from miipher2.training.summary import list_checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run at step 8, with step 4 beside it; not to be written to."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    Tiny(folder, steps=8)()
    return folder


def test_a_full_disk_is_detected_before_anything_is_written(trained: Path, tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**30, 2**30 - 2**19, 2**19))
    with pytest.raises(OSError, match=r"no room for a checkpoint of 0.0 MB, 0.5 MB are free") as caught:
        Tiny(folder)(folder / "checkpoint_8.pt")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(folder)
    monkeypatch.undo()
    assert [step for step, path in list_checkpoints(folder) if load(path)] == [4, 8]
    Tiny(folder)(folder / "checkpoint_8.pt")


def test_a_disk_too_small_for_the_checkpoints_to_come_is_said_before_training(
    tmp_path: Path, monkeypatch: Any, caplog: Any
) -> None:
    folder = tmp_path / "run"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**31, 2**31 - 2**21, 2**21))
    Tiny(folder, steps=8, save_interval=1)()
    assert "checkpoints to come" not in caplog.text
    with pytest.raises(_Stopped):  # rotation has as many as it keeps
        Tiny(folder, steps=10**6, save_interval=1, keep_last_n=8, before_first_update=_stop)(folder / "checkpoint_8.pt")
    assert "checkpoints to come" not in caplog.text
    with pytest.raises(_Stopped):
        Tiny(folder, steps=2_000_000, save_interval=1, keep_last_n=10**6, before_first_update=_stop)()
    assert re.search(
        r"run: the checkpoints to come take [\d.]+ GB and 0\.0 GB are free \(the last 1000000", caplog.text
    )


class _Stopped(Exception):
    pass


def _stop() -> None:
    raise _Stopped


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 3 MB; skip where mounting one is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
@pytest.mark.parametrize("checked", [True, False])
def test_a_disk_that_fills_up_keeps_the_earlier_checkpoints(small_disk: Path, monkeypatch: Any, checked: bool) -> None:
    """Also where something else takes the space between the check and the write."""
    folder = small_disk / "run"
    Tiny(folder, steps=4)()
    if not checked:
        monkeypatch.setattr(checkpoint, "check_free_space", lambda *_: None)
    free = shutil.disk_usage(small_disk).free
    (small_disk / "other").write_bytes(b"\0" * (free - 20_000))
    with pytest.raises(OSError, match="no room" if checked else "No space left|enforce fail|28"):
        Tiny(folder)(folder / "checkpoint_4.pt")
    assert [step for step, path in list_checkpoints(folder) if load(path)] == [4]
    (small_disk / "other").unlink()
    monkeypatch.undo()
    Tiny(folder)(folder / "checkpoint_4.pt")


def test_a_runs_folder_may_be_on_another_disk(small_disk: Path, tmp_path: Path) -> None:
    """Both a link to a folder on it, and its mount point, beside which nothing is on the same disk."""
    (tmp_path / "linked").symlink_to(small_disk / "run")
    (small_disk / "run").mkdir()
    for folder in (tmp_path / "linked", small_disk):
        Tiny(folder, steps=4)()
        aside = Tiny(folder, steps=4)().aside
        assert aside is not None
        assert (aside / "checkpoint_4.pt").exists()
        Tiny(folder, steps=8)(folder / "checkpoint_4.pt")


def test_temporary_files_are_never_on_another_disk(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("TMPDIR", "/proc")  # not writable
    monkeypatch.setattr("tempfile.tempdir", None)
    renames = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b, **more: (renames.append((Path(a), Path(b))), replace(a, b, **more)))
    Tiny(tmp_path / "run")()
    assert len(renames) > 6
    assert all(source.parent == target.parent for source, target in renames)


def test_a_folder_without_write_permission_is_named(tmp_path: Path) -> None:
    """In a child process without root's rights, since root ignores permissions."""
    outer = tmp_path / "exp"
    outer.mkdir()
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)
    outer.chmod(0o555)
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            Tiny(outer / "run")()
        except PermissionError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert f"Permission denied: '{outer / 'run'}'" in pipe.read()
    assert list(outer.iterdir()) == []


def test_a_worker_that_outlives_a_killed_run_does_not_keep_its_folder_locked(tmp_path: Path) -> None:
    """A data worker lives for seconds after its parent was killed; the run must be resumable meanwhile."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        with run_dir.lock(tmp_path / "run"):
            worker = os.fork()
            if worker:
                os.write(write, f"{worker}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()
            os._exit(0)
    os.waitpid(pid, 0)
    worker = int(os.read(read, 20))
    try:
        os.kill(worker, 0)  # it is alive
        with run_dir.lock(tmp_path / "run"):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_second_process_cannot_train_in_the_same_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code = (
        "import sys; from pathlib import Path; from miipher2.training import run_dir\n"
        f"with run_dir.lock(Path({str(folder)!r})):\n print('locked', flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(checkpoint.__file__).parents[2])}
    other = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(run_dir.RunDirInUseError, match=f"{folder}: another process is training in it"):
        Tiny(folder)()
    assert [path.name for path in folder.iterdir()] == [".lock"]
    other.kill()
    other.wait()
    Tiny(folder)()


def test_no_checkpoint_is_overwritten(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    content, _ = load(folder / "checkpoint_8.pt")
    content.model = {"other": torch.ones(3)}
    with pytest.raises(FileExistsError, match="never overwritten"):
        checkpoint.save(folder, content, {})
    assert load(folder / "checkpoint_8.pt")[1] == load(trained / "checkpoint_8.pt")[1]
