"""The command that started a run, recorded so that a resume can repeat every setting of it."""

import functools
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, open_dict

from miipher2.config.paths import ROOT

RESUME_KEY = "checkpoint.resume_from"


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
        overrides = [_decode(word) for word in composed.get("overrides", [])]
        return ["uv", "run", "dvc", "exp", "run", *_with_flags(overrides)]
    script, *rest = sys.argv
    return ["uv", "run", *launcher, relative_to_root(script), *without_resume(rest)]


def resume_command(words: Sequence[str], checkpoint: str, stage: str | None = None) -> str:
    """Return the command that resumes from a checkpoint with the settings of an earlier command.

    Args:
        stage: the checkpoint's stage, where DVC cannot tell it from the folder that the file is in.
    """
    path = hydra_word(relative_to_root(checkpoint))
    if not is_dvc_command(words):
        return shlex.join([*words, f"{RESUME_KEY}={path}"])
    value = path if stage is None else f"{{{stage}: {path}}}"
    return shlex.join([*words, *_with_flags([f"{RESUME_KEY}={value}"])])


def is_dvc_command(words: Sequence[str]) -> bool:
    """Return whether a command runs the pipeline and not one script."""
    return list(words[:5]) == ["uv", "run", "dvc", "exp", "run"]


def without_resume(overrides: Sequence[str]) -> list[str]:
    """Return overrides without `checkpoint.resume_from`, which belongs to one start of a run."""
    return [word for word in overrides if word.lstrip("+").partition("=")[0] != RESUME_KEY]


def hydra_word(value: str) -> str:
    """Return a string as Hydra's override grammar reads it, in quotes where it has to be."""
    if value.isascii() and all(letter.isalnum() or letter in "_./:-" for letter in value):
        return value
    # Within quotes, Hydra reads a backslash as itself, unless a quote follows.
    return "'" + re.sub(r"(\\*)('|$)", lambda part: part[1] * 2 + ("\\'" if part[2] else ""), value) + "'"


def relative_to_root(path: str | Path) -> str:
    """Return a path relative to the repository, or as it is where it lies outside."""
    absolute = Path(path).resolve()
    return str(absolute.relative_to(ROOT)) if absolute.is_relative_to(ROOT) else str(path)


def _encode(override: str) -> str:
    """Return an override without `$`, which OmegaConf would take for an interpolation, in percent-encoding."""
    return override.replace("%", "%25").replace("$", "%24")


def _decode(override: str) -> str:
    return override.replace("%24", "$").replace("%25", "%")


def _with_flags(overrides: Sequence[Any]) -> list[str]:
    return [word for override in overrides for word in ("-S", str(override))]
