"""checkpoint.resume_from under DVC: one value for the whole pipeline, routed to the stage it belongs to."""

import hashlib
import os
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from miipher2.atomic_io import sha256_of
from miipher2.config.paths import ROOT
from miipher2.config.schema import TRAINING_STAGES


def resume_for(stage: str, *, _root_: Any) -> Any:
    """Return `{from, sha256}` of the checkpoint in `checkpoint.resume_from` that belongs to `stage`, or None.

    `checkpoint.resume_from` is null (fresh), one path, a list of paths, or `{stage: path}` for files kept elsewhere.

    Raises:
        ValueError: the path lies in no stage's folder or in a `published/`, or a stage is named twice.
        FileNotFoundError: there is no such file.
    """
    own = _root_[stage].checkpoint.resume_from
    if own is not None:
        raise ValueError(f"{stage}.checkpoint.resume_from={own}: under DVC say -S checkpoint.resume_from={own}")
    requested = _root_.checkpoint.resume_from
    if requested is None:
        return None
    if OmegaConf.is_dict(requested):
        if unknown := sorted(set(requested) - set(TRAINING_STAGES)):
            raise ValueError(
                f"checkpoint.resume_from: no stage {', '.join(unknown)}; should be one of {', '.join(TRAINING_STAGES)}"
            )
        paths = [requested[stage]] if requested.get(stage) is not None else []
    else:
        folders = {other: f"exp/{_root_[other].name}" for other in TRAINING_STAGES}
        every = [requested] if isinstance(requested, str) else list(requested)
        paths = [path for path in every if _stage_of(path, folders) == stage]
    if len(paths) > 1:
        raise ValueError(
            f"checkpoint.resume_from names {len(paths)} checkpoints of {stage}: {', '.join(paths)}; name one"
        )
    # A DictConfig, since OmegaConf.resolve() refuses a plain dict from a resolver.
    return OmegaConf.create({"from": paths[0], "sha256": checkpoint_sha256(paths[0])}) if paths else None


def resume_param(stage: str, *, _root_: Any) -> str:
    """Return the name of the parameter by which DVC sees a resume: `resume.<stage>` while the stage resumes.

    Otherwise `<stage>.name`, which is tracked anyway, so that going back to null leaves a finished stage unchanged.
    """
    return f"{stage}.name" if _root_.resume[stage] is None else f"resume.{stage}"


def encoder_folder(name: str) -> str:
    """Return the local folder of an encoder, for DVC to watch; for a hub name, the settings that pin its revision."""
    return name if (ROOT / name).is_dir() else "configs/encoder"


def configs_digest() -> str:
    """Return a digest of every file in `configs/`, stored in `params.yaml` to detect when it is stale."""
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    lines = [f"{path.relative_to(ROOT).as_posix()} {sha256_of(path)}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def check_unchanged(resume: Any) -> None:
    """Check that a routed checkpoint is still the file that params.yaml was composed with.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has other bytes.
    """
    if checkpoint_sha256(resume["from"]) != resume.sha256:
        raise ValueError(
            f"{resume['from']} is not the file that params.yaml names (sha256 {resume.sha256}); "
            f"name it again: uv run dvc exp run -S checkpoint.resume_from={resume['from']}"
        )


def checkpoint_sha256(path: str) -> str:
    """Return the digest of a checkpoint's bytes; going by the path alone, DVC's run cache confuses two files.

    Raises:
        FileNotFoundError: with the message that a run by hand gives.
    """
    file = find_checkpoint(path)
    assert file is not None
    return sha256_of(file)


def find_checkpoint(path: str | None) -> Path | None:
    """Return the file that `checkpoint.resume_from` names; a relative path starts at the repository.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if path is None:
        return None
    file = ROOT / path
    if not file.is_file():
        raise FileNotFoundError(f"Checkpoint specified in `resume_from` not found: {path}{_relative_hint(path)}")
    return file


def _relative_hint(path: str) -> str:
    if Path(path).is_absolute() or Path.cwd() == ROOT:
        return ""
    return f" (a relative path is taken from the repository, {ROOT}, not from {Path.cwd()})"


def _stage_of(path: str, folders: dict[str, str]) -> str:
    """Return the stage in whose folder `path` lies."""
    file = Path(os.path.normpath(ROOT / path))
    for stage, folder in folders.items():
        live = ROOT / folder
        if live / "published" in file.parents:
            raise ValueError(
                f"checkpoint.resume_from={path}: DVC empties published/ before the stage runs; name the live file "
                f"{folder}/{file.name}, or copy it out first: uv run dvc get . {path} -o resume/{file.name}"
            )
        if live in file.parents:
            return stage
    raise ValueError(
        f"checkpoint.resume_from={path} lies in no stage's folder ({', '.join(folders.values())})"
        f"{_relative_hint(path)}; "
        f"for a file kept elsewhere name its stage: -S 'checkpoint.resume_from={{<stage>: {path}}}'"
    )
