"""A checkpoint: what it holds, and how it is written whole, described in JSON, and read back without pickle."""

import hashlib
import io
import json
import pickle
import shutil
import struct
import typing
import zipfile
import zlib
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from miipher2.atomic_io import fsync, write_atomically, write_with_sha256
from miipher2.training.summary import file_name, json_path, upgrade

FORMAT = 2
IDENTITY, DESCRIPTION, STATE = "identity", "description", "state"
# Everything that torch.load and zipfile raise for files that are damaged or hold more than plain values and tensors.
READ_ERRORS: tuple[type[Exception], ...] = (
    *(ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError, AttributeError, EOFError),
    *(AssertionError, MemoryError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error),
)


class CheckpointError(ValueError):
    """A file is not a checkpoint, is damaged, or does not belong to this run; nothing was changed."""


def _entry(role: str, *, in_json: bool = True) -> Any:
    return field(metadata={"role": role, "in_json": in_json})


@dataclass
class Checkpoint:
    """Everything that a run's future depends on, as plain values and tensors.

    An entry is part of the run's `identity`, a `description` of what it was made with, or its `state`. Those marked
    `in_json` are repeated in the JSON beside the file.

    Args:
        model: trained tensors by name; the frozen encoder is in `upstream_digests`.
        rng: state of the global generators (see `rng.get_state`) by rank.
        parents: the checkpoints that the run was resumed from, oldest first, as {path, step, sha256}.
        history: text of history.csv up to this step.
        best: {metric, value, step} of the best validation so far.
        upstream_digests: sha256 of the weights that the stage was given, by name (`encoder`, `adapter`, `vocoder`).
    """

    stage: str = _entry(DESCRIPTION)
    step: int = _entry(STATE)
    run_id: str = _entry(IDENTITY)
    model: dict[str, Any] = _entry(STATE, in_json=False)
    optimizers: dict[str, Any] = _entry(STATE, in_json=False)
    schedules: dict[str, Any] = _entry(STATE)
    ema: dict[str, Any] = _entry(STATE, in_json=False)
    rng: dict[str, Any] = _entry(STATE, in_json=False)
    config: dict[str, Any] = _entry(DESCRIPTION)
    wandb: dict[str, Any] | None = _entry(IDENTITY)
    parents: list[Any] = _entry(IDENTITY)
    history: str = _entry(STATE, in_json=False)
    best: dict[str, Any] | None = _entry(STATE)
    upstream_digests: dict[str, Any] = _entry(DESCRIPTION)
    data_sha256: str = _entry(DESCRIPTION)
    environment: dict[str, Any] = _entry(DESCRIPTION)
    format: int = field(default=FORMAT, metadata={"role": DESCRIPTION, "in_json": True})

    @classmethod
    def entries(cls, role: str | None = None) -> tuple[str, ...]:
        """Return the names of all entries, or of those with one role."""
        return tuple(each.name for each in fields(cls) if role in (None, each.metadata["role"]))

    def as_dict(self) -> dict[str, Any]:
        """Return the entries by name; nothing is copied."""
        return {name: getattr(self, name) for name in self.entries()}

    def summary(self) -> dict[str, Any]:
        """Return what the JSON says of it: the same without tensors, and digests of the generators."""
        plain = {each.name: getattr(self, each.name) for each in fields(self) if each.metadata["in_json"]}
        return {
            **plain,
            "trained_parameters": sum(tensor.numel() for tensor in self.model.values()),
            "rng_sha256": {
                rank: {name: digest_of(value) for name, value in states.items()} for rank, states in self.rng.items()
            },
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Checkpoint":
        """Return the checkpoint with these entries.

        Raises:
            ValueError: an entry is missing or has the wrong type; names it.
        """
        if missing := [name for name in cls.entries() if name not in content]:
            raise ValueError(f"a checkpoint without {', '.join(missing)}")
        for name, kinds in _entry_types().items():
            if not isinstance(content[name], kinds):
                raise ValueError(f"a checkpoint whose {name} is a {type(content[name]).__name__}")
        return cls(**{name: content[name] for name in cls.entries()})


def _entry_types() -> dict[str, tuple[type, ...]]:
    types = {}
    for name, hint in typing.get_type_hints(Checkpoint).items():
        arguments = typing.get_args(hint) if type(None) in typing.get_args(hint) else (hint,)
        types[name] = tuple(typing.get_origin(each) or each for each in arguments)
    return types


def save(folder: Path, checkpoint: Checkpoint, about: dict[str, Any]) -> Path:
    """Write a checkpoint and its JSON into `folder`, durable when this returns, and return the checkpoint's path.

    The JSON becomes visible first, so that no checkpoint is ever visible without its digest.

    Args:
        about: what the JSON says beyond the checkpoint's own summary.

    Raises:
        FileExistsError: there is a checkpoint of that step; none is ever overwritten.
        OSError: the disk is full or the folder cannot be written; earlier files are untouched.
    """
    content = checkpoint.as_dict()
    path = folder / file_name(checkpoint.step)
    temporary = path.with_name(f".{path.name}.tmp")
    if path.exists():
        raise FileExistsError(f"{path}: exists already, and a checkpoint is never overwritten; move it away")
    check_free_space(folder, size_of(content))
    saved_at = {"saved_at": datetime.now(UTC).isoformat(timespec="seconds")}
    try:
        sha256 = write_with_sha256(temporary, partial(torch.save, content))
        summary = {**checkpoint.summary(), **about, **saved_at, "sha256": sha256, "bytes": temporary.stat().st_size}
        write_atomically(json_path(path), json.dumps(summary, indent=2).encode() + b"\n")
        temporary.replace(path)
        fsync(folder)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load(path: Path, *, stage: str | None = None) -> tuple[Checkpoint, str]:
    """Read a checkpoint of this or an earlier format, and return it with its sha256; no code in it is run.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is damaged, not a checkpoint, of another stage or of a newer format; says which.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    data = path.read_bytes()
    sha256 = verify_bytes(path, data)
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except READ_ERRORS as error:
        raise CheckpointError(f"{path}: not a checkpoint that can be read safely ({_first_line(error)})") from None
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise CheckpointError(f"{path}: not a checkpoint of this project (it has no format number)")
    if content["format"] > FORMAT:
        raise CheckpointError(f"{path}: format {content['format']}; this version reads up to {FORMAT}; update the code")
    try:
        checkpoint = Checkpoint.from_dict(upgrade(content))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; a run cannot be resumed exactly from it") from None
    if stage is not None and checkpoint.stage != stage:
        raise CheckpointError(f"{path}: a checkpoint of the stage {checkpoint.stage}; this is {stage}")
    return checkpoint, sha256


def verify_bytes(path: Path, data: bytes) -> str:
    """Compare a checkpoint's bytes with the digest in its JSON (or else the archive's checksums); return the digest.

    Raises:
        CheckpointError: they differ, or the file is not an archive at all.
    """
    found = hashlib.sha256(data).hexdigest()
    beside = json_path(path)
    if beside.is_file():
        try:
            expected = json.loads(beside.read_text())["sha256"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise CheckpointError(f"{beside}: damaged, holds no sha256; restore it from published/ or DVC") from None
        if found != expected:
            raise CheckpointError(f"{path}: damaged, sha256 is {found}, {beside.name} says {expected}")
        return found
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            broken = archive.testzip()
    except READ_ERRORS as error:
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({_first_line(error)})") from None
    if broken is not None:
        raise CheckpointError(f"{path}: damaged, {broken} in it has a wrong checksum")
    return found


def check_free_space(folder: Path, needed_bytes: int) -> None:
    """Check that the disk has room for a file of that size.

    Raises:
        OSError: it does not; names both amounts.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes * 1.05 + 2**20:
        raise OSError(
            28,
            f"no room for a checkpoint of {needed_bytes / 2**20:.1f} MB, {free / 2**20:.1f} MB are free",
            str(folder),
        )


def copy_to_host(content: Any) -> Any:
    """Return a copy of plain values and tensors that nothing else changes, its tensors in the host's memory."""
    copy = _copy_to_host(content)
    if torch.cuda.is_initialized():
        torch.cuda.current_stream().synchronize()
    return copy


def _copy_to_host(content: Any) -> Any:
    if type(content) is torch.Tensor:
        copy = torch.empty(content.shape, dtype=content.dtype, pin_memory=content.is_cuda)
        return copy.copy_(content, non_blocking=True)
    if isinstance(content, dict):
        return {name: _copy_to_host(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(_copy_to_host(value) for value in content)
    return content


def size_of(content: Any) -> int:
    """Return about how many bytes a value takes in a checkpoint.

    Raises:
        AssertionError: it contains something that `weights_only=True` would refuse to read.
    """
    if type(content) is torch.Tensor:
        return content.numel() * content.element_size()
    if isinstance(content, dict):
        return sum(size_of(value) + 64 for value in content.values())
    if isinstance(content, list | tuple):
        return sum(size_of(value) for value in content)
    # By type and not by isinstance: NumPy's float64 and torch's version string are subclasses, and refused.
    assert type(content) in (str, int, float, bool, type(None)), f"{type(content)} in a checkpoint"
    return len(content) if isinstance(content, str) else 16


def digest_of(value: Any) -> str:
    """Return a sha256 of plain values and tensors, for comparing states by eye."""
    return hashlib.sha256(_canonical(value)).hexdigest()


def _canonical(value: Any) -> bytes:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}{tuple(value.shape)}".encode() + value.detach().cpu().contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return b"{" + b",".join(str(key).encode() + b":" + _canonical(value[key]) for key in sorted(value)) + b"}"
    if isinstance(value, list | tuple):
        return b"[" + b",".join(_canonical(entry) for entry in value) + b"]"
    return repr(value).encode()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
