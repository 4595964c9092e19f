"""params.yaml: composed from configs/ as `dvc exp run` does it, and checked: whether it is stale, and its values."""

import re
import shlex
import sys
from collections.abc import Sequence

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from miipher2.config.command import (
    DVC_RUN,
    RESUME_KEY,
    experiment_command,
    hydra_value,
    recorded_overrides,
    with_flags,
)
from miipher2.config.load import check_keys, check_pipeline, load_config
from miipher2.config.paths import ROOT
from miipher2.config.resume_routing import check_unchanged, configs_digest, find_checkpoint, requested_for
from miipher2.config.schema import SCHEMAS, TRAINING_STAGES
from miipher2.config.script import message_of

PARAMS = ROOT / "params.yaml"
HELP = """\
Write params.yaml from configs/, as `dvc exp run` does, or check that it is neither stale nor wrong.

examples:
  miipher2 params                              after editing configs/, before `uv run dvc repro`
  miipher2 params train_adapter.steps=500      with overrides, which params.yaml records
  miipher2 params --check                      exit with 1 where params.yaml is stale or holds a wrong value
"""


def compose_config(name: str, overrides: Sequence[str] = (), group: str = "") -> DictConfig:
    """Return a configuration file of `configs/`, or of a group in it, composed with `overrides`, unresolved."""
    Plugins.instance()  # our plugin makes the shared groups reachable
    with initialize_config_dir(str(ROOT / "configs" / group), version_base="1.3"):
        return compose(name, overrides=list(overrides))


def compose_params(overrides: Sequence[str]) -> DictConfig:
    """Return the resolved configuration of the whole pipeline."""
    config = compose_config("pipeline", overrides)
    OmegaConf.resolve(config)
    return config


def find_problem(params: DictConfig) -> str | None:
    """Return what is wrong with `params.yaml` and what to do, or None.

    Raises:
        FileNotFoundError: the checkpoint of a resume that has not ended is missing.
    """
    if params.get("configs_digest") != configs_digest():
        compose, run = (shlex.join(words) for words in repairs(params))
        return f"params.yaml was composed from other files than configs/ holds now; run `{compose}`, or use `{run}`"
    params = params.copy()
    try:
        for stage in TRAINING_STAGES:
            if problem := find_resume_problem(stage, params):
                return problem
            params.resume[stage] = None  # checked, or history
    except ValueError as error:
        return str(error)
    return find_wrong_value(params)


def find_resume_problem(stage: str, params: DictConfig) -> str | None:
    """Return what is wrong with the resume of one stage and what to do, or None.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is missing, is another one by now, or cannot be routed.
    """
    path, resume = requested_for(stage, params), params.resume[stage]
    if path == (None if resume is None else resume["from"]):
        if resume is not None and not has_ended(stage, params):
            check_unchanged(stage, params)
        return None
    find_checkpoint(path)
    requested = params.checkpoint.resume_from
    return (
        f"params.yaml: checkpoint.resume_from={requested} was edited by hand and is routed to no stage; "
        f"run `{experiment_command(params, requested)}`"
    )


def has_ended(stage: str, params: DictConfig) -> bool:
    """Return whether a resume is history: `dvc.lock` has it, and all else in params.yaml that the stage depends on.

    The stage is finished then, and its result is versioned. Its checkpoint is not: it may be gone or another one by
    now, and a clone never had it.
    """
    try:
        locked = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"][stage]["params"]["params.yaml"]
    except (OSError, LookupError, TypeError, yaml.YAMLError):
        return False
    values = {key: OmegaConf.select(params, key) for key in locked}
    plain = {key: OmegaConf.to_container(one) if OmegaConf.is_config(one) else one for key, one in values.items()}
    return f"resume.{stage}" in locked and plain == locked


def repairs(params: DictConfig) -> tuple[list[str], list[str]]:
    """Return the words of two commands that compose params.yaml anew, by `miipher2 params` and by `dvc exp run`.

    They repeat the overrides and the resume that it was composed with, or as much of them as still composes.
    """
    overrides, resume = recorded_overrides(params), OmegaConf.select(params, "checkpoint.resume_from")
    candidates = [overrides] if resume is None else [[*overrides, f"{RESUME_KEY}={hydra_value(resume)}"], overrides]
    words = next((each for each in candidates if _composes(each)), [])
    return ["uv", "run", "miipher2", "params", *words], [*DVC_RUN, *with_flags(words)]


def find_wrong_value(params: DictConfig) -> str | None:
    """Return which value of which stage is wrong, or None: DVC removes a stage's outputs before it starts the stage."""
    for stage, schema in SCHEMAS.items():
        try:
            if stage in params:
                load_config(params, stage, schema)
        except (ValueError, OmegaConfBaseException) as error:
            message = message_of(error).removeprefix(f"{stage}.")
            return f"{stage}.{message}" if re.match(r"[\w.]+[=:]", message) else f"{stage}: {message}"
    try:
        check_keys(params)
        check_pipeline(params)
    except ValueError as error:
        return str(error)
    return None


def _composes(overrides: Sequence[str]) -> bool:
    try:
        return find_wrong_value(compose_params(overrides)) is None
    except (HydraException, OmegaConfBaseException, ValueError, OSError):
        return False


def main(arguments: Sequence[str]) -> int:
    """Write or check params.yaml; return the exit code."""
    if arguments and arguments[0] in ("-h", "--help"):
        sys.stdout.write(HELP)
        return 0
    try:
        if list(arguments) == ["--check"]:
            problem = find_problem(OmegaConf.create(yaml.safe_load(PARAMS.read_text())))
            if problem:
                sys.stderr.write(f"ERROR: {problem}\n")
            return int(problem is not None)
        params = compose_params(arguments)
        if problem := find_wrong_value(params):
            raise ValueError(problem)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, FileNotFoundError) as error:
        sys.stderr.write(f"ERROR: {message_of(error)}\n")
        return 1
    PARAMS.write_text(OmegaConf.to_yaml(params))
    sys.stdout.write(f"wrote {PARAMS}\n")
    return 0
