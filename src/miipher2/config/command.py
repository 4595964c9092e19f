"""The command that started a run, recorded so that a resume can repeat every setting of it."""

import functools
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf, open_dict

from miipher2.config.paths import ROOT, real_path

RESUME_KEY = "checkpoint.resume_from"
DVC_RUN = ("uv", "run", "dvc", "exp", "run")


def hook_composition(check: Callable[[DictConfig], None]) -> None:
    """Make Hydra check the pipeline that it composed, and add the overrides to `params.yaml`.

    DVC does not keep the overrides, and a resume needs them. Hydra 1.3 calls nothing of ours after a composition, so
    this wraps the method that composes.

    Args:
        check: raises ValueError where DVC should not go on.
    """
    if getattr(ConfigLoaderImpl.load_configuration, "is_hooked", False):
        return
    compose = ConfigLoaderImpl.load_configuration

    @functools.wraps(compose)
    def load_configuration(self: Any, config_name: str | None, overrides: list[str], *args: Any, **kwargs: Any) -> Any:
        config = compose(self, config_name, overrides, *args, **kwargs)
        if config_name == "pipeline":
            check(config)
            with open_dict(config):
                config.overrides = [_encode(word) for word in without_resume(overrides)]
        return config

    load_configuration.is_hooked = True  # type: ignore[attr-defined]
    ConfigLoaderImpl.load_configuration = load_configuration


def starting_command(composed: DictConfig, launcher: Sequence[str] = ()) -> list[str]:
    """Return the words of the command that started this run, without `checkpoint.resume_from`.

    Args:
        launcher: what starts the script in several processes, such as `torchrun --nproc-per-node=2`.
    """
    if "resume_param" in composed:
        return [*DVC_RUN, *with_flags(recorded_overrides(composed))]
    script, *rest = sys.argv
    return ["uv", "run", *launcher, relative_to_root(script), *without_resume(rest)]


def resume_command(words: Sequence[str], checkpoint: str, stage: str | None = None) -> str:
    """Return the command that resumes from a checkpoint with the settings of an earlier command.

    Args:
        checkpoint: absolute, or taken from the repository.
        stage: the checkpoint's stage, where DVC cannot tell it from the folder that the file is in.
    """
    path = relative_to_root(ROOT / checkpoint)
    if not is_dvc_command(words):
        return shlex.join([*words, f"{RESUME_KEY}={hydra_word(path)}"])
    return shlex.join([*words, *with_flags([f"{RESUME_KEY}={hydra_value(path if stage is None else {stage: path})}"])])


def experiment_command(params: DictConfig, resume_from: Any) -> str:
    """Return the `dvc exp run` with the overrides of params.yaml and another `checkpoint.resume_from`."""
    words = [*DVC_RUN, *with_flags(recorded_overrides(params))]
    return shlex.join(words if resume_from is None else [*words, "-S", f"{RESUME_KEY}={hydra_value(resume_from)}"])


def recorded_overrides(params: DictConfig) -> list[str]:
    """Return the overrides that a params.yaml was composed with, without `checkpoint.resume_from`."""
    recorded = params.get("overrides")
    return [_decode(str(word)) for word in recorded] if OmegaConf.is_list(recorded) else []


def is_dvc_command(words: Sequence[str]) -> bool:
    """Return whether a command runs the pipeline and not one script."""
    return tuple(words[:5]) == DVC_RUN


def without_resume(overrides: Sequence[str]) -> list[str]:
    """Return overrides without `checkpoint.resume_from`, which belongs to one start of a run."""
    return [word for word in overrides if word.lstrip("+").partition("=")[0] != RESUME_KEY]


def hydra_word(value: str) -> str:
    """Return a string as Hydra's override grammar reads it, in quotes where it has to be."""
    if value.isascii() and all(letter.isalnum() or letter in "_./:-" for letter in value):
        return value
    # Within quotes, Hydra reads a backslash as itself, unless a quote follows.
    return "'" + re.sub(r"(\\*)('|$)", lambda part: part[1] * 2 + ("\\'" if part[2] else ""), value) + "'"


def hydra_value(value: Any) -> str:
    """Return a path, a list of paths or `{stage: path}` as Hydra's override grammar reads it."""
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {hydra_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(hydra_value, value)) + "]"
    return "null" if value is None else hydra_word(str(value))


def relative_to_root(path: str | Path) -> str:
    """Return a path relative to the repository, or an absolute one where it lies outside."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - exp/<name> may be a link, and is named as such
    for each in (absolute, real_path(absolute)):
        if each.is_relative_to(ROOT):
            return str(each.relative_to(ROOT))
    return str(absolute)


def _encode(override: str) -> str:
    """Return an override without `$`, which OmegaConf would take for an interpolation, in percent-encoding."""
    return override.replace("%", "%25").replace("$", "%24")


def _decode(override: str) -> str:
    return override.replace("%24", "$").replace("%25", "%")


def with_flags(overrides: Sequence[Any]) -> list[str]:
    """Return overrides as `dvc exp run` takes them."""
    return [word for override in overrides for word in ("-S", str(override))]
