"""Write params.yaml from configs/, as `dvc exp run` does, or say that it is stale.

uv run python -m miipher2.compose [override ...]     writes params.yaml; then `uv run dvc repro`
uv run python -m miipher2.compose --check            exits 1 where params.yaml no longer fits
"""

import sys

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from miipher2.config import ROOT, TRAINING_STAGES, configs_digest, resume_for

PARAMS = ROOT / "params.yaml"


def compose_params(overrides: list[str]) -> DictConfig:
    """Return the resolved pipeline configuration with `overrides` applied."""
    Plugins.instance()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("pipeline", overrides=overrides)
    OmegaConf.resolve(config)
    return config


def find_staleness(params: DictConfig) -> str | None:
    """Return what is wrong with `params.yaml` and what to do, or None."""
    if params.get("configs_digest") != configs_digest():
        return (
            "params.yaml was composed from other files than configs/ holds now; "
            "run `uv run python -m miipher2.compose` (with your overrides), or use `uv run dvc exp run`"
        )
    for stage in TRAINING_STAGES:
        wanted = resume_for(stage, _root_=params)
        if wanted != params.resume[stage]:
            return (
                f"params.yaml: checkpoint.resume_from={params.checkpoint.resume_from} was edited by hand and is routed "
                f"to no stage; run `uv run dvc exp run -S checkpoint.resume_from={params.checkpoint.resume_from}`"
            )
    return None


def main(arguments: list[str]) -> int:
    """Write or check params.yaml; return the exit code."""
    if arguments and arguments[0] in ("-h", "--help"):
        sys.stdout.write(str(__doc__))
        return 0
    try:
        if arguments == ["--check"]:
            problem = find_staleness(OmegaConf.create(yaml.safe_load(PARAMS.read_text())))
            if problem:
                sys.stderr.write(f"ERROR: {problem}\n")
            return int(problem is not None)
        text = OmegaConf.to_yaml(compose_params(arguments))
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, FileNotFoundError) as error:
        sys.stderr.write(f"ERROR: {error}\n")
        return 1
    PARAMS.write_text(text)
    sys.stdout.write(f"wrote {PARAMS}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
