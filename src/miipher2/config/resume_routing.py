"""checkpoint.resume_from under DVC: one value for the whole pipeline, routed to the stage it belongs to."""

import hashlib
import json
import os
import shlex
from pathlib import Path
from types import NoneType
from typing import Any

from omegaconf import OmegaConf

from miipher2.atomic_io import sha256_of
from miipher2.config.command import RESUME_KEY, experiment_command, hydra_value, relative_to_root
from miipher2.config.paths import ROOT, is_hub_name, real_path
from miipher2.config.schema import TRAINING_STAGES


def resume_for(stage: str, *, _root_: Any) -> Any:
    """Return `{from, sha256}` of the checkpoint in `checkpoint.resume_from` that belongs to `stage`, or None.

    `checkpoint.resume_from` is null (fresh), one path, a list of paths, or `{stage: path}` for files kept elsewhere.

    Raises:
        ValueError: the path lies in no stage's folder or in a `published/`, or a stage is named twice.
        FileNotFoundError: there is no such file.
    """
    path = requested_for(stage, _root_)
    # A DictConfig, since OmegaConf.resolve() refuses a plain dict from a resolver.
    return None if path is None else OmegaConf.create({"from": path, "sha256": checkpoint_sha256(path)})


def requested_for(stage: str, params: Any) -> str | None:
    """Return the path in `checkpoint.resume_from` that belongs to `stage`, or None; whether it exists is not asked.

    Raises:
        ValueError: as for `resume_for`.
    """
    own, requested = params[stage].checkpoint.resume_from, params.checkpoint.resume_from
    if own is not None:
        routed = (
            own if any(_is_in(str(own), f"exp/{params[other].name}") for other in TRAINING_STAGES) else {stage: own}
        )
        raise ValueError(f"{stage}.checkpoint.resume_from={own}: under DVC say {_flag(routed)}")
    if requested is None:
        return None
    if OmegaConf.is_config(requested) and not requested:
        raise ValueError(f"checkpoint.resume_from={requested} names no checkpoint; should be null for a fresh start")
    folders = {other: f"exp/{params[other].name}" for other in TRAINING_STAGES}
    if OmegaConf.is_dict(requested):
        if unknown := sorted(str(key) for key in requested if key not in TRAINING_STAGES):
            raise ValueError(
                f"checkpoint.resume_from: no stage {', '.join(unknown)}; should be one of {', '.join(TRAINING_STAGES)}"
            )
        paths = [check_path(requested[other], f".{other}") for other in requested if requested[other] is not None]
        for path in paths:
            _check_not_published(path, folders)
        return requested.get(stage)
    is_list = OmegaConf.is_list(requested)
    several = {f"[{place}]": path for place, path in enumerate(requested)} if is_list else {"": requested}
    every = [check_path(path, place) for place, path in several.items()]
    paths = [path for path in every if _stage_of(path, folders) == stage]
    if len(paths) > 1:
        raise ValueError(
            f"checkpoint.resume_from names {len(paths)} checkpoints of {stage}: {', '.join(paths)}; name one"
        )
    return paths[0] if paths else None


def check_path(value: Any, place: str = "") -> str:
    """Return a value of `checkpoint.resume_from` that names a file.

    Args:
        place: where in `checkpoint.resume_from` it stands.

    Raises:
        ValueError: it is no text, or it names a folder; says what it is and should be.
    """
    if not isinstance(value, str) or not value:
        kinds = {bool: "true or false", int: "a number", float: "a number", NoneType: "null", str: "empty"}
        kind = "a mapping" if OmegaConf.is_dict(value) or isinstance(value, dict) else kinds.get(type(value), "a list")
        raise ValueError(f"checkpoint.resume_from{place}={value} is {kind}; should be the path of a checkpoint")
    if (ROOT / value).is_dir():
        raise ValueError(f"checkpoint.resume_from{place}={value}: is a folder; should be a checkpoint_*.pt in it")
    return value


def resume_param(stage: str, *, _root_: Any) -> str:
    """Return the name of the parameter by which DVC sees a resume: `resume.<stage>` while the stage resumes.

    Otherwise `<stage>.name`, which is tracked anyway, so that going back to null leaves a finished stage unchanged.
    """
    return f"{stage}.name" if _root_.resume[stage] is None else f"resume.{stage}"


def encoder_folder(name: str) -> str:
    """Return the local folder of an encoder, for DVC to watch; for a hub name, the settings that pin its revision."""
    return name if (ROOT / name).is_dir() else "configs/encoder"


def init_files(stage: str, *, _root_: Any) -> Any:
    """Return the files of weights that `<stage>.init_from` names, for DVC to watch.

    What is none, or on the hub, is the stage's script instead, which is watched anyway. A folder that an earlier stage
    has yet to publish will hold what such a stage publishes.
    """
    init_from = _root_[stage].init_from
    files = {}
    for key in init_from:
        name = init_from[key] or (init_from.vocoder if key == "discriminators" else None)
        if name is None or is_hub_name(name, ROOT):
            files[key] = f"stages/{stage}.py"
            continue
        weights = "weights" if (ROOT / name / "bundle.json").is_file() else "final"
        file = f"{name}/{'discriminators' if key == 'discriminators' else weights}.safetensors"
        # Where there are weights without discriminators, fresh ones are trained.
        is_there = (ROOT / file).is_file() or not (ROOT / name / f"{weights}.safetensors").is_file()
        files[key] = file if is_there else f"stages/{stage}.py"
    return OmegaConf.create(files)


def configs_digest() -> str:
    """Return a digest of every file in `configs/`, stored in `params.yaml` to detect when it is stale."""
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    lines = [f"{path.relative_to(ROOT).as_posix()} {sha256_of(path)}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def check_unchanged(stage: str, params: Any) -> None:
    """Check that the routed checkpoint of a stage is still the file that params.yaml was composed with.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has other bytes.
    """
    resume = params.resume[stage]
    if checkpoint_sha256(resume["from"]) != resume.sha256:
        raise ValueError(
            f"{resume['from']} is not the file that params.yaml names (sha256 {resume.sha256}); "
            f"name it again: {experiment_command(params, params.checkpoint.resume_from)}"
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
    """Return the stage in whose folder `path` lies, as it is spelt or behind links."""
    _check_not_published(path, folders)
    for stage, folder in folders.items():
        if _is_in(path, folder):
            return stage
    raise ValueError(
        f"checkpoint.resume_from={path} lies in no stage's folder ({', '.join(folders.values())})"
        f"{_relative_hint(path)}; for a file kept elsewhere name its stage: "
        f"{_flag({_recorded_stage(path) or '<stage>': path})}"
    )


def _check_not_published(path: str, folders: dict[str, str]) -> None:
    """Check that DVC, which removes `published/` before the stage runs, does not remove the checkpoint with it."""
    for folder in folders.values():
        if _is_in(path, f"{folder}/published"):
            file = Path(path).name
            live = f"name the live file {folder}/{file}, or " if is_live(ROOT / path, ROOT / folder) else ""
            copied = shlex.join(["uv", "run", "dvc", "get", ".", relative_to_root(ROOT / path), "-o", f"resume/{file}"])
            reason = "DVC empties published/ before the stage runs"
            raise ValueError(f"checkpoint.resume_from={path}: {reason}; {live}copy it out first: {copied}")


def is_live(published: Path, folder: Path) -> bool:
    """Return whether a run's folder holds a published checkpoint too, as its JSON says."""
    live, same = folder / published.name, [path.with_suffix(".json") for path in (folder / published.name, published)]
    return live.is_file() and all(path.is_file() for path in same) and same[0].read_bytes() == same[1].read_bytes()


def _is_in(path: str, folder: str) -> bool:
    spelt = Path(os.path.normpath(ROOT / path))
    return ROOT / folder in spelt.parents or real_path(ROOT / folder) in real_path(spelt).parents


def _recorded_stage(path: str) -> str | None:
    """Return the stage that the JSON beside a checkpoint names."""
    try:
        stage = json.loads((ROOT / path).with_suffix(".json").read_text())["stage"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return stage if stage in TRAINING_STAGES else None


def _flag(value: Any) -> str:
    """Return the words that give `checkpoint.resume_from` to DVC, as a shell reads them."""
    return shlex.join(["-S", f"{RESUME_KEY}={hydra_value(value)}"])
