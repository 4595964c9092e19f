"""A run's folder: one writer, other runs' files set aside and not deleted, checkpoints rotated, results published."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from miipher2.training.checkpoint import checkpoints, step_of, summary_path, sync_folder, write_durably

PUBLISHED = "published"


class FolderInUseError(RuntimeError):
    """Another process is training in this folder."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make the folder where needed, and hold it for this process alone; a killed process holds nothing.

    Raises:
        FolderInUseError: another process trains in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUseError(
                f"{folder}: another process is training in it; wait for it or end it, or give this run another `name`"
            ) from None
        yield
    finally:
        os.close(descriptor)


def set_aside(folder: Path, *, run_id: str | None, up_to_step: int) -> Path | None:
    """Move what is not the run's, or lies beyond `up_to_step`, into `.replaced/` beside the folder; return where.

    Args:
        run_id: the run that goes on; None for a fresh start, which sets all live files aside.
    """
    leaving = [path for path in sorted(folder.iterdir()) if path.name != PUBLISHED and not _is_temporary(path)]
    if run_id is not None:
        leaving = [path for path in leaving if not _is_kept(path, run_id, up_to_step)]
    for path in folder.glob(".*.tmp"):  # a kill in the middle of a write left it; it was never visible as a checkpoint
        path.unlink() if path.is_file() else shutil.rmtree(path)
    if not leaving:
        return None
    target = _new_folder(folder)
    for path in leaving:
        path.rename(target / path.name)
    sync_folder(target)
    sync_folder(folder)
    return target


def rotate(folder: Path, *, run_id: str, keep_last_n: int, spared: Path | None) -> list[Path]:
    """Remove this run's oldest checkpoints beyond the newest `keep_last_n`; return what was removed.

    Args:
        spared: the parent of the run, which is never removed.
    """
    own = [path for _, path in checkpoints(folder) if _run_of(path) == run_id]
    removed = [path for path in own[: -max(1, keep_last_n)] if spared is None or path.resolve() != spared.resolve()]
    for path in removed:
        path.unlink()
        summary_path(path).unlink(missing_ok=True)
    if removed:
        sync_folder(folder)
    return removed


def publish(folder: Path, *, run_id: str, publish_last_n: int, weights: dict[str, dict[str, Tensor]]) -> Path:
    """Fill `published/` in one go: the newest checkpoints as hard links, config, history, and the weights alone.

    A `published/` of another run is set aside first.

    Args:
        weights: tensors by file (`final` becomes final.safetensors) and name; equal weights give equal bytes.
    """
    target, building = folder / PUBLISHED, folder / f".{PUBLISHED}.tmp"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    own = [path for _, path in checkpoints(folder) if _run_of(path) == run_id]
    for path in own[-publish_last_n:]:
        for file in (path, summary_path(path)):
            os.link(file, building / file.name)
    for name in ("config.yaml", "history.csv"):
        shutil.copyfile(folder / name, building / name)
    for name, tensors in weights.items():
        plain = {key: tensor.detach().cpu().contiguous() for key, tensor in sorted(tensors.items())}
        write_durably(building / f"{name}.safetensors", safetensors_bytes(plain))
    if target.exists():
        if {_run_of(path) for _, path in checkpoints(target)} <= {run_id}:
            shutil.rmtree(target)
        else:
            target.rename(_new_folder(folder) / PUBLISHED)
    building.rename(target)
    sync_folder(folder)
    return target


def _is_kept(path: Path, run_id: str, up_to_step: int) -> bool:
    if path.suffix == ".json":
        path = path.with_suffix(".pt")
    step = step_of(path)
    if step is None:
        return True  # config.yaml, history.csv and W&B's files are the run's own and written anew
    return _run_of(path) == run_id and step <= up_to_step


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _run_of(path: Path) -> str | None:
    """Return the run that a checkpoint belongs to, as its JSON says; None where there is no JSON that can be read."""
    try:
        described = json.loads(summary_path(path).read_text())
    except (OSError, ValueError):
        return None
    return described.get("run_id") if isinstance(described, dict) else None


def _new_folder(folder: Path) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    root = folder.parent / ".replaced"
    for attempt in range(10_000):
        target = root / (f"{folder.name}.{stamp}" + (f"-{attempt}" if attempt else ""))
        try:
            target.mkdir(parents=True)
        except FileExistsError:
            continue
        return target
    raise AssertionError(f"10,000 folders named {folder.name}.{stamp} in {root}")
