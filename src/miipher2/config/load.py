"""From a composed Hydra configuration to a stage's dataclass: the one loader, by hand and under DVC."""

from itertools import permutations
from typing import Any, TypeVar

from hydra.conf import HydraConf, RunDir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from miipher2.config import paths, resume_routing
from miipher2.config.command import hook_composition
from miipher2.config.fields import ConfigValueError, Section, in_one_line
from miipher2.config.schema import GENERATORS, SCHEMAS, TRAINING_STAGES
from miipher2.config.schema_data import PrepareDataConfig

Config = TypeVar("Config", bound=Section)


# The keys of params.yaml ("") and of the sections in it that have no schema.
DERIVED = ("resume", "resume_param", "encoder_folder", "init_files")
PIPELINE: dict[str, set[str]] = {
    "": {"data", "evaluate", "checkpoint", "configs_digest", "overrides", *DERIVED, *TRAINING_STAGES},
    "checkpoint": {"resume_from"},
    **{section: {*TRAINING_STAGES} for section in DERIVED},
}


def is_pipeline(composed: DictConfig) -> bool:
    """Return whether this is params.yaml, with every stage in it, and not the configuration of one stage."""
    return "resume_param" in composed


def load_config(composed: DictConfig, stage: str, schema: type[Config]) -> Config:
    """Return the validated configuration of one stage, from its own configuration or from params.yaml.

    Raises:
        ValueError: a value is missing or out of its range, or params.yaml names a resume that it does not route.
        omegaconf.errors.OmegaConfBaseException: a key is unknown or a value has the wrong type.
    """
    from_params = is_pipeline(composed)
    values: Any = OmegaConf.to_container(composed[stage] if from_params else composed, resolve=True)
    node: Any = OmegaConf.structured(schema)
    if OmegaConf.select(node, "model.generator") is not None:
        node.model.generator = OmegaConf.structured(_generator_schema(values))
    merged: Any = OmegaConf.merge(node, values)
    if missing := sorted(OmegaConf.missing_keys(merged)):
        raise ValueError(f"{stage}: no value for {', '.join(missing)}")
    if from_params and stage in TRAINING_STAGES and composed.resume[stage] is not None:
        resume_routing.check_unchanged(stage, composed)
        merged.checkpoint.resume_from = composed.resume[stage]["from"]
    return to_dataclass(merged)


def check_keys(params: DictConfig) -> None:
    """Check that params.yaml has no unknown key, beside those in the sections that have a schema.

    Raises:
        ValueError: it has one; names it.
    """
    for section, known in PIPELINE.items():
        if unknown := [key for key in (params[section] if section else params) if key not in known]:
            key = f"{section}.{unknown[0]}" if section else unknown[0]
            raise ValueError(f"{key}: no such key; should be one of {', '.join(sorted(known))}")


def check_pipeline(params: DictConfig) -> None:
    """Check the folders that a pipeline would empty, each against the rule in `config.paths`.

    When DVC has a composed pipeline, it removes these folders before any stage could object.

    Raises:
        ValueError: names the key.
        omegaconf.errors.OmegaConfBaseException: a value is missing.
    """
    names = {f"{stage}.name": params[stage].name for stage in TRAINING_STAGES}
    for key, name in names.items():
        if problem := paths.find_name_problem(name) or paths.find_run_problem(name):
            raise ValueError(f"{key}={in_one_line(name)}: {problem}")
    for (key, name), (other_key, other) in permutations(names.items(), 2):
        if f"{other}/".startswith(f"{name}/"):
            raise ValueError(f"{key}={name}: is or holds the run of {other_key}={other}; give each stage another name")
    try:
        load_config(params, "data", PrepareDataConfig).check_prepared(paths.ROOT)
    except ValueError as error:
        raise ValueError(f"data.{error}") from None


def to_dataclass(node: Any, prefix: str = "") -> Any:
    """Return a structured node as an instance of its dataclass.

    Raises:
        ValueError: a value is out of its range; names the full key, the value and the range.
    """
    for key in node:
        # Inner sections first, each under its own name: a section knows its keys and not where it stands.
        inner = node._get_node(key) if OmegaConf.is_dict(node) else None
        if isinstance(inner, DictConfig) and not inner._is_none() and not node._is_missing():
            to_dataclass(node[key], f"{prefix}{key}.")
    try:
        return OmegaConf.to_object(node)
    except ConfigValueError as error:
        raise ValueError(f"{prefix}{error.key}={in_one_line(error.value)}: {error.expected}") from None


def _generator_schema(values: dict[str, Any]) -> type[Section]:
    """Return the schema of the generator that a stage's values choose."""
    kind = values["model"]["generator"].get("kind")
    if kind not in GENERATORS:
        raise ValueError(f"model.generator.kind={kind}: should be one of {', '.join(GENERATORS)}")
    return GENERATORS[kind]


def register() -> None:
    """Register schemas, resolvers and Hydra's settings; Hydra's plugin calls this wherever our configs are composed."""
    for resolver in (
        resume_routing.resume_for,
        resume_routing.resume_param,
        resume_routing.encoder_folder,
        resume_routing.init_files,
        resume_routing.configs_digest,
    ):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
    hook_composition(check_pipeline)
    store = ConfigStore.instance()
    for stage, schema in SCHEMAS.items():
        store.store(group="schema", name=stage, node=schema)
    for kind, schema in GENERATORS.items():
        store.store(group="schema/generator", name=kind, node=schema)
    # No outputs/<date>/, no .hydra/, no log file: everything of a run is in its own folder.
    hydra = HydraConf(run=RunDir(dir="."), output_subdir=None)
    hydra.defaults = [{"job_logging": "none"} if "job_logging" in entry else entry for entry in hydra.defaults]
    store.store(group="hydra", name="config", node=hydra, provider="miipher2")
