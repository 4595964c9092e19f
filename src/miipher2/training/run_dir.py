"""A run's folder: one writer, other runs' files set aside and never deleted, checkpoints rotated, results published."""

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from miipher2.atomic_io import UNSUPPORTED, fsync, link_or_copy, move, sha256_of, write_atomically
from miipher2.training.history import CHAIN, Chain
from miipher2.training.summary import file_name, json_path, list_checkpoints, read_summary, step_of

PUBLISHED, REPLACED, LOCK = "published", ".replaced", ".lock"

log = logging.getLogger(__name__)


class RunDirInUseError(RuntimeError):
    """Another process is training in this folder."""


@dataclass(frozen=True)
class Parent:
    """The checkpoint that a run resumed from: the file, and what is in it."""

    path: Path
    step: int
    sha256: str
    run_id: str

    def is_at(self, path: Path) -> bool:
        """Return whether `path` is this checkpoint: the file itself, or one with the same bytes by its JSON."""
        return path.resolve() == self.path.resolve() or read_summary(path).get("sha256") == self.sha256


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Create the folder if necessary, and lock it for this process alone; a killed process holds no lock.

    Raises:
        RunDirInUseError: another process trains in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # A file and not the folder itself, which NFS cannot lock.
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    _open_locks.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunDirInUseError(
                f"{folder}: another process is training in it; wait for it or end it, or give this run another `name`"
            ) from None
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            log.warning("%s: its file system has no locks; make sure that no other process trains in it", folder)
        yield
    finally:
        _open_locks.discard(descriptor)
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Return whether a process trains in a run's folder."""
    if not (folder / LOCK).is_file():
        return False
    with (folder / LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False  # its file system has no locks, so nobody holds one
    return False


def set_aside(folder: Path, parent: Parent | None) -> Path | None:
    """Move what is not part of the run's past into `.replaced/` beside the folder; return where, or None.

    Args:
        parent: the checkpoint resumed from. This file stays and, where the folder holds the same checkpoint, those of
            the run up to its step. None for a fresh start, which sets all live files aside.
    """
    for path in folder.glob(".*.tmp"):  # left by a kill in the middle of a write; never visible as a checkpoint
        path.unlink() if path.is_file() else shutil.rmtree(path)
    leaving = [path for path in folder.iterdir() if path.name not in (PUBLISHED, REPLACED, LOCK)]
    if parent is not None:
        same_lineage = parent.is_at(folder / file_name(parent.step))
        leaving = [path for path in leaving if not _is_kept(path, parent, same_lineage)]
    if not leaving:
        return None
    target = _new_folder(folder)
    if parent is not None:  # these stay, but are cut back to the parent's step
        for name in ("config.yaml", "history.csv", CHAIN):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, target / name)
    # A checkpoint before its JSON: it can be read without, and a kill in between leaves it whole.
    for path in sorted(leaving, key=lambda path: (path.suffix != ".pt", path.name)):
        move(path, target / path.name)
    fsync(target)
    fsync(folder)
    return target


def rotate(folder: Path, *, run_id: str, keep_last_n: int, parent: Parent | None) -> list[Path]:
    """Remove this run's checkpoints before the newest `keep_last_n`, but never the parent; return which."""
    own = _own(folder, run_id)
    removed = [path for path in own[: -max(1, keep_last_n)] if parent is None or not parent.is_at(path)]
    for path in removed:
        path.unlink()
        json_path(path).unlink(missing_ok=True)
    if removed:
        fsync(folder)
    return removed


def publish(
    folder: Path, *, run_id: str, publish_last_n: int, weights: dict[str, dict[str, Tensor]], chain: Chain
) -> Path:
    """Fill `published/` in one go: the newest checkpoints as hard links, config, history, and the weights alone.

    Without hard links on the file system they are copies. A `published/` of another run is set aside first.

    Args:
        chain: of the checkpoint that these weights are of.
        weights: tensors by file (`final` becomes final.safetensors) and name; equal weights give equal bytes.
    """
    target, building = folder / PUBLISHED, folder / f".{PUBLISHED}.tmp"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    for path in _own(folder, run_id)[-publish_last_n:]:
        for file in (path, json_path(path)):
            link_or_copy(file, building / file.name)
    for name in ("config.yaml", "history.csv"):
        write_atomically(building / name, (folder / name).read_bytes())
    for name, tensors in weights.items():
        plain = {key: tensor.detach().cpu().contiguous() for key, tensor in sorted(tensors.items())}
        write_atomically(building / f"{name}.safetensors", safetensors_bytes(plain))
    digests = {path.name: sha256_of(path) for path in sorted(building.glob("*.safetensors"))}
    write_atomically(building / CHAIN, chain.text(digests).encode())
    before = None
    if target.exists():  # moved away by a rename, so that a kill leaves one or the other whole
        is_own = {read_summary(path).get("run_id") for _, path in list_checkpoints(target)} == {run_id}
        before = _new_folder(folder)
        move(target, before / PUBLISHED)
    building.rename(target)
    fsync(folder)
    if before is not None and is_own:
        shutil.rmtree(before)
    return target


def _own(folder: Path, run_id: str) -> list[Path]:
    """Return the run's checkpoints in a folder by ascending step."""
    return [path for _, path in list_checkpoints(folder) if read_summary(path).get("run_id") == run_id]


def _is_kept(path: Path, parent: Parent, same_lineage: bool) -> bool:
    checkpoint = path.with_suffix(".pt") if path.suffix == ".json" else path
    step = step_of(checkpoint)
    if step is None:
        return True  # config.yaml, history.csv and W&B's files are the run's own and written anew
    if checkpoint.resolve() == parent.path.resolve():
        return True
    return same_lineage and read_summary(checkpoint).get("run_id") == parent.run_id and step <= parent.step


def _new_folder(folder: Path) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    real = folder.resolve()  # exp/<name> may be a link to another disk, and nothing is moved across disks
    root = (real.parent if real.parent.stat().st_dev == real.stat().st_dev else real) / REPLACED
    for attempt in range(10_000):
        target = root / (f"{folder.name}.{stamp}" + (f"-{attempt}" if attempt else ""))
        try:
            target.mkdir(parents=True)
        except FileExistsError:
            continue
        return target
    raise AssertionError(f"10,000 folders named {folder.name}.{stamp} in {root}")


def _close_locks_in_child() -> None:
    """Close a data worker's copy of the lock: workers that outlive a killed run must not keep its folder locked."""
    for descriptor in _open_locks:
        os.close(descriptor)
    _open_locks.clear()


_open_locks: set[int] = set()
os.register_at_fork(after_in_child=_close_locks_in_child)
