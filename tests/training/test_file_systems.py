"""Training on file systems that lack hard links, locks or renames of folders: real ones where mounting is allowed."""

import errno
import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_run import Tiny

from miipher2.cli.checkpoint.verify import find_problem
from miipher2.config.paths import ignores_case
from miipher2.training import run_dir
from miipher2.training.checkpoint import load
from miipher2.training.summary import list_checkpoints

Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Return a function that mounts a new file system of some kind and returns its folder; skip where it cannot."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    loops: list[str] = []

    def run(*words: object) -> str:
        if shutil.which(str(words[0])) is None:
            pytest.skip(f"there is no {words[0]}")
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{words[0]} is not allowed here")
        return done.stdout.strip()

    def mount_one(kind: str) -> Path:
        if kind == "overlay":  # with a finished run in its lower layer, as in an image of a container
            lower, upper, work = (tmp_path / name for name in ("lower", "upper", "work"))
            Tiny(lower / "run", steps=4)()
            (lower / "run/wandb").mkdir()
            upper.mkdir(), work.mkdir()
            layers = f"lowerdir={lower},upperdir={upper},workdir={work}"
            run("mount", "-t", "overlay", "-o", layers, "overlay", folder)
            return folder
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(64 * 2**20)
        run(f"mkfs.{kind}", image)
        loops.append(run("losetup", "-f", "--show", image))
        in_kernel = f"\t{kind}\n" in Path("/proc/filesystems").read_text()
        run(*(["mount", "-t", kind] if in_kernel else [f"mount.{kind}-fuse"]), loops[0], folder)
        return folder

    yield mount_one
    subprocess.run(["umount", str(folder)], check=False, capture_output=True)
    for loop in loops:
        subprocess.run(["losetup", "-d", loop], check=True)


def train_resume_and_start_again(folder: Path) -> None:
    """Check that each step of a run's life works, and that its files are whole at the end."""
    Tiny(folder, steps=4)()
    aside = Tiny(folder, steps=8)().aside
    assert aside is not None
    assert load(aside / "checkpoint_4.pt")
    shutil.rmtree(aside)
    Tiny(folder, keep_last_n=1)(folder / "checkpoint_8.pt")
    published = list_checkpoints(folder / "published")
    assert [step for step, _ in published] == [8, 12]
    assert [find_problem(path) for _, path in [*published, *list_checkpoints(folder)]] == [None] * 4
    assert not list(folder.glob(".*.tmp"))


@pytest.mark.parametrize("kind", ["vfat", "exfat", "overlay"])
def test_a_run_on_a_real_file_system_of_another_kind(mount: Mount, kind: str) -> None:
    folder = mount(kind)
    train_resume_and_start_again(folder / "run")
    assert ignores_case(folder / "not/yet/there") == (kind != "overlay")
    assert (folder / "run/published/checkpoint_12.pt").stat().st_nlink == (2 if kind == "overlay" else 1)


def test_a_run_on_a_file_system_without_links_locks_and_flushed_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    flush = os.fsync
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(os, "fsync", lambda it: refuse() if os.path.isdir(f"/proc/self/fd/{it}") else flush(it))  # noqa: PTH112
    train_resume_and_start_again(tmp_path / "run")
    assert not run_dir.is_locked(tmp_path / "run")
