"""A checkpoint on the disk: written whole or not at all, described in a JSON beside it, read without pickle."""

import hashlib
import io
import json
import pickle
import re
import shutil
import struct
import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import torch

from miipher2.durable import sync, write_durably, write_hashed

FORMAT = 1
ENTRIES: dict[str, tuple[type, ...]] = {
    "format": (int,),
    "stage": (str,),
    "step": (int,),
    "run_id": (str,),
    "model": (dict,),
    "optimizers": (dict,),
    "schedules": (dict,),
    "ema": (dict,),
    "rng": (dict,),
    "config": (dict,),
    "wandb": (dict, type(None)),
    "parents": (list,),
    "history": (str,),
    "best": (dict, type(None)),
    "sources": (dict,),
    "data_sha256": (str,),
    "environment": (dict,),
}
# What torch.load and zipfile say of files that are broken, or hold more than plain values and tensors.
READ_ERRORS: tuple[type[Exception], ...] = (
    *(ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError, AttributeError, EOFError),
    *(AssertionError, MemoryError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error),
)


class CheckpointError(ValueError):
    """A file is no checkpoint, is damaged, or does not belong to what asked for it; nothing was changed."""


def file_name(step: int) -> str:
    """Return `checkpoint_10k.pt` for step 10,000 and `checkpoint_1500.pt` for step 1,500."""
    return f"checkpoint_{step // 1000}k.pt" if step and step % 1000 == 0 else f"checkpoint_{step}.pt"


def step_of(path: Path) -> int | None:
    """Return the step that a file's name gives, or None where it is no checkpoint's name."""
    match = re.fullmatch(r"checkpoint_(\d+)(k?)\.pt", path.name)
    return None if match is None else int(match[1]) * (1000 if match[2] else 1)


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Return the checkpoints in a folder by rising step."""
    found = [(step_of(path), path) for path in folder.glob("checkpoint_*.pt")]
    return sorted((step, path) for step, path in found if step is not None)


def summary_path(path: Path) -> Path:
    """Return the JSON beside a checkpoint."""
    return path.with_suffix(".json")


def save(folder: Path, content: dict[str, Any], summary: dict[str, Any]) -> Path:
    """Write a checkpoint and its JSON into `folder`, durable when this returns, and return the checkpoint's path.

    The JSON becomes visible first, so that no checkpoint is ever visible without its digest.

    Raises:
        FileExistsError: there is a checkpoint of that step; none is ever written over.
        OSError: the disk is full or the folder cannot be written; earlier files are untouched.
    """
    assert (odd := _misfit(content)) is None, f"a checkpoint {odd}"
    path = folder / file_name(content["step"])
    temporary = path.with_name(f".{path.name}.tmp")
    if path.exists():
        raise FileExistsError(f"{path}: there already, and a checkpoint is never written over; move it away")
    check_room(folder, size_of(content))
    try:
        digest = write_hashed(temporary, partial(torch.save, content))
        described = {**summary, "sha256": digest, "bytes": temporary.stat().st_size}
        write_durably(summary_path(path), json.dumps(described, indent=2).encode() + b"\n")
        temporary.replace(path)
        sync(folder)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load(path: Path, *, stage: str | None = None) -> tuple[dict[str, Any], str]:
    """Read a checkpoint and return its content and sha256; no code in it is run, and nothing is applied.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: damaged, not a checkpoint, of another stage or of a newer format; says which.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Checkpoint specified in `resume_from` not found: {path}")
    data = path.read_bytes()
    found = verify_bytes(path, data)
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except READ_ERRORS as error:
        raise CheckpointError(f"{path}: not a checkpoint that can be read safely ({_first_line(error)})") from None
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise CheckpointError(f"{path}: holds no checkpoint of this project (no format number)")
    if content["format"] > FORMAT:
        raise CheckpointError(f"{path}: format {content['format']}; this version reads up to {FORMAT}; update the code")
    if (odd := _misfit(content)) is not None:
        raise CheckpointError(f"{path}: a checkpoint {odd}; a run cannot go on exactly from it")
    if stage is not None and content["stage"] != stage:
        raise CheckpointError(f"{path}: a checkpoint of the stage {content['stage']}; wanted one of {stage}")
    return content, found


def verify_bytes(path: Path, data: bytes) -> str:
    """Compare a checkpoint's bytes with the digest in its JSON (without one, with the archive's checksums); return it.

    Raises:
        CheckpointError: they differ, or the file is no archive at all.
    """
    found = hashlib.sha256(data).hexdigest()
    described = summary_path(path)
    if described.is_file():
        try:
            wanted = json.loads(described.read_text())["sha256"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise CheckpointError(f"{described}: damaged, holds no sha256; restore it from published/ or DVC") from None
        if found != wanted:
            raise CheckpointError(f"{path}: damaged, sha256 is {found}, {described.name} says {wanted}")
        return found
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            broken = archive.testzip()
    except READ_ERRORS as error:
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({_first_line(error)})") from None
    if broken is not None:
        raise CheckpointError(f"{path}: damaged, {broken} in it has a wrong checksum")
    return found


def check_room(folder: Path, wanted_bytes: int) -> None:
    """Check that the disk has room for a file of so many bytes.

    Raises:
        OSError: it has not; names both amounts.
    """
    free = shutil.disk_usage(folder).free
    if free < wanted_bytes * 1.05 + 2**20:
        raise OSError(
            28,
            f"no room for a checkpoint of {wanted_bytes / 2**20:.1f} MB, {free / 2**20:.1f} MB are free",
            str(folder),
        )


def size_of(content: Any) -> int:
    """Return about how many bytes a value takes in a checkpoint.

    Raises:
        AssertionError: it holds what `weights_only=True` would refuse to read.
    """
    if type(content) is torch.Tensor:
        return content.numel() * content.element_size()
    if isinstance(content, dict):
        return sum(size_of(value) + 64 for value in content.values())
    if isinstance(content, list | tuple):
        return sum(size_of(value) for value in content)
    # By type and not by isinstance: NumPy's float64 and torch's version are subclasses, and refused.
    assert type(content) in (str, int, float, bool, type(None)), f"{type(content)} in a checkpoint"
    return len(content) if isinstance(content, str) else 16


def _misfit(content: dict[str, Any]) -> str | None:
    """Say what a checkpoint's content lacks or has of a wrong type, if anything."""
    if missing := [entry for entry in ENTRIES if entry not in content]:
        return f"without {', '.join(missing)}"
    odd = [entry for entry, kinds in ENTRIES.items() if not isinstance(content[entry], kinds)]
    return f"whose {odd[0]} is a {type(content[odd[0]]).__name__}" if odd else None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
