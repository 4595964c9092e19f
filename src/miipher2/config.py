"""Configuration: the resolvers that route a resume, and the one loader. Imports no torch, since DVC imports it."""

import hashlib
import os
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf, RunDir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from miipher2.feature_layers import as_layers
from miipher2.schema import SCHEMAS, TRAINING_STAGES
from miipher2.schema_generator import GENERATORS

ROOT = Path(__file__).resolve().parents[2]


def stage_config(composed: DictConfig, stage: str) -> Any:
    """Return the validated, read-only configuration of one stage, from a composed stage config or from `params.yaml`.

    Raises:
        ValueError: a value is missing or out of its range, or `params.yaml` names a resume that it does not route.
        omegaconf.errors.OmegaConfBaseException: a key is unknown or a value has the wrong type.
    """
    pipeline = "resume_param" in composed
    node = composed[stage] if pipeline else composed
    values: Any = OmegaConf.to_container(node, resolve=True)
    schema = OmegaConf.structured(SCHEMAS[stage])
    if OmegaConf.select(schema, "model.generator") is not None:
        schema.model.generator = OmegaConf.structured(_generator_schema(values))
    config = OmegaConf.merge(schema, values)
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise ValueError(f"{stage}: no value for {', '.join(missing)}")
    if pipeline and stage in TRAINING_STAGES and (resume := composed.resume[stage]) is not None:
        if sha256(resume["from"]) != resume.sha256:
            raise ValueError(
                f"{resume['from']} is not the file that params.yaml names (sha256 {resume.sha256}); "
                f"name it again: uv run dvc exp run -S checkpoint.resume_from={resume['from']}"
            )
        config.checkpoint.resume_from = resume["from"]
    check_values(config)
    OmegaConf.set_readonly(config, True)
    return config


def _generator_schema(values: dict[str, Any]) -> type:
    """Return the keys that the generator of a stage's configuration has."""
    kind = values["model"]["generator"].get("kind")
    if kind not in GENERATORS:
        raise ValueError(f"model.generator.kind={kind}: should be one of {', '.join(GENERATORS)}")
    return GENERATORS[kind]


def check_values(config: DictConfig) -> None:
    """Check what types cannot say.

    Raises:
        ValueError: names the key, its value and what it should be.
    """
    choices = {
        "precision": ("fp32", "bf16"),
        "hears": ("clean", "degraded"),
        "wandb.mode": ("offline", "online", "disabled"),
        "checkpoint.on_config_change": ("warn", "error"),
        "optim.scheduler.name": ("constant", "cosine", "exponential"),
        "optim_discriminator.scheduler.name": ("constant", "cosine", "exponential"),
        "split": ("train", "valid", "test"),
        "splits": ("published", "rule"),
        "on_bad_file": ("error", "skip"),
        "data.on_bad_file": ("error", "skip"),
        "data.pad_to": ("crop", "longest"),
        "degradation.order": ("chain", "random"),
    }
    for key, allowed in choices.items():
        value = OmegaConf.select(config, key)
        if value is not None and value not in allowed:
            raise ValueError(f"{key}={value}: should be one of {', '.join(allowed)}")
    positive = (
        "steps batch_size validation_batches log_interval validation_interval data.crop_seconds data.segment_frames "
        "checkpoint.save_interval checkpoint.keep_last_n checkpoint.publish_last_n optim.lr optim_discriminator.lr "
        "model.adapter_hidden_dim model.sample_rate_hz loader.prefetch runtime.threads utterances "
        "wandb.examples.seconds wandb.examples.times"
    )
    for key in positive.split():
        value = OmegaConf.select(config, key)
        if value is not None and value <= 0:
            raise ValueError(f"{key}={value}: should be greater than 0")
    if (count := OmegaConf.select(config, "wandb.examples.count")) is not None and count < 0:
        raise ValueError(f"wandb.examples.count={count}: should be at least 0")
    if (layer := OmegaConf.select(config, "model.hubert_layer")) is not None:
        try:
            as_layers(layer)
        except ValueError as error:
            raise ValueError(f"model.hubert_layer={layer}: {error}") from error
    rate_hz = OmegaConf.select(config, "model.sample_rate_hz")
    if rate_hz is not None and rate_hz % 50:
        raise ValueError(
            f"model.sample_rate_hz={rate_hz}: should be a multiple of 50, since features have 50 frames a second"
        )
    for key in ("data.crop_seconds", "wandb.examples.seconds"):
        seconds = OmegaConf.select(config, key)
        if seconds is not None and seconds * 50 != round(seconds * 50):
            raise ValueError(f"{key}={seconds}: should be a whole number of frames of 0.02 s")
    crop_seconds = OmegaConf.select(config, "data.crop_seconds")
    segment_frames = OmegaConf.select(config, "data.segment_frames")
    if segment_frames is not None and segment_frames > crop_seconds * 50:
        raise ValueError(f"data.segment_frames={segment_frames}: the crop has {round(crop_seconds * 50)} frames")


def register() -> None:
    """Register schemas, resolvers and Hydra's settings; Hydra's plugin calls it wherever these configs are composed."""
    OmegaConf.register_new_resolver("resume_for", resume_for, replace=True)
    OmegaConf.register_new_resolver("resume_param", resume_param, replace=True)
    OmegaConf.register_new_resolver("encoder_folder", encoder_folder, replace=True)
    OmegaConf.register_new_resolver("configs_digest", configs_digest, replace=True)
    store = ConfigStore.instance()
    for stage, schema in SCHEMAS.items():
        store.store(group="schema", name=stage, node=schema)
    for kind, schema in GENERATORS.items():
        store.store(group="schema/generator", name=kind, node=schema)
    # No outputs/<date>/, no .hydra/, no log file: everything of a run is in its own folder.
    hydra = HydraConf(run=RunDir(dir="."), output_subdir=None)
    hydra.defaults = [{"job_logging": "none"} if "job_logging" in entry else entry for entry in hydra.defaults]
    store.store(group="hydra", name="config", node=hydra, provider="miipher2")


def resume_for(stage: str, *, _root_: Any) -> Any:
    """Return `{from, sha256}` of the checkpoint in `checkpoint.resume_from` that belongs to `stage`, or None.

    `checkpoint.resume_from` is null (fresh), one path, a list of paths, or `{stage: path}` for files kept elsewhere.

    Raises:
        ValueError: the path lies under no stage's folder or in a `published/`, or two are named for one stage.
        FileNotFoundError: there is no such file.
    """
    own = _root_[stage].checkpoint.resume_from
    if own is not None:
        raise ValueError(f"{stage}.checkpoint.resume_from={own}: under DVC say -S checkpoint.resume_from={own}")
    named = _root_.checkpoint.resume_from
    if named is None:
        return None
    if OmegaConf.is_dict(named):
        if unknown := sorted(set(named) - set(TRAINING_STAGES)):
            raise ValueError(
                f"checkpoint.resume_from: no stage {', '.join(unknown)}; should be one of {', '.join(TRAINING_STAGES)}"
            )
        mine = [named[stage]] if named.get(stage) is not None else []
    else:
        folders = {other: f"exp/{_root_[other].name}" for other in TRAINING_STAGES}
        mine = [path for path in _listed(named) if _stage_of(path, folders) == stage]
    if len(mine) > 1:
        raise ValueError(
            f"checkpoint.resume_from names {len(mine)} checkpoints of {stage}: {', '.join(mine)}; name one"
        )
    # A DictConfig, since OmegaConf.resolve() refuses a plain dict from a resolver.
    return OmegaConf.create({"from": mine[0], "sha256": sha256(mine[0])}) if mine else None


def resume_param(stage: str, *, _root_: Any) -> str:
    """Return the name of the parameter by which DVC sees a resume: `resume.<stage>` while the stage resumes.

    Otherwise `<stage>.name`, tracked anyway, so that going back to a fresh default leaves a finished stage unchanged.
    """
    return f"{stage}.name" if _root_.resume[stage] is None else f"resume.{stage}"


def encoder_folder(name: str) -> str:
    """Return the local folder that an encoder is, for DVC to watch; for a name on the hub the settings that give it.

    That is pinned by `hubert_revision`, and its digest is in every checkpoint.
    """
    return name if (ROOT / name).is_dir() else "configs/encoder"


def configs_digest() -> str:
    """Return a digest of every file under `configs/`, kept in `params.yaml` to see when it is stale."""
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    lines = [f"{path.relative_to(ROOT).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def sha256(path: str) -> str:
    """Return the digest of a checkpoint's bytes; by its path alone DVC's run cache mistakes one file for another.

    Raises:
        FileNotFoundError: with the message that a run by hand gives.
    """
    file = find_checkpoint(path)
    assert file is not None
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def find_checkpoint(path: str | None) -> Path | None:
    """Return the file that `checkpoint.resume_from` names; a relative path is taken from the repository.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if path is None:
        return None
    file = ROOT / path
    if not file.is_file():
        raise FileNotFoundError(f"Checkpoint specified in `resume_from` not found: {path}{_where_from(path)}")
    return file


def _where_from(path: str) -> str:
    if Path(path).is_absolute() or Path.cwd() == ROOT:
        return ""
    return f" (a relative path is taken from the repository, {ROOT}, not from {Path.cwd()})"


def _listed(named: Any) -> list[str]:
    return [named] if isinstance(named, str) else list(named)


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
        f"checkpoint.resume_from={path} lies in no stage's folder ({', '.join(folders.values())}){_where_from(path)}; "
        f"for a file kept elsewhere name its stage: -S 'checkpoint.resume_from={{<stage>: {path}}}'"
    )
