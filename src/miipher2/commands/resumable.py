"""`miipher2 checkpoint command`, and runs that were cut off: the exact command that goes on from a checkpoint."""

import argparse
import fcntl
import json
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from miipher2.commands.finding import Finding
from miipher2.commands.listing import summary_of
from miipher2.config import ROOT
from miipher2.schema import TRAINING_STAGES
from miipher2.training.drift import flatten

# Made from the rest when it is composed.
DERIVED = ("checkpoint", "resume", "resume_param", "encoder_folder", "configs_digest")
NOT_REPEATED = "checkpoint.resume_from"


def run(options: argparse.Namespace) -> int:
    """Print the command that goes on from one checkpoint."""
    if not options.file.is_file():
        raise FileNotFoundError(f"{options.file}: no such file")
    known = summary_of(options.file)
    if not known:
        raise ValueError(f"{options.file.with_suffix('.json')}: missing or damaged; it says how the run was configured")
    file = options.file.resolve()
    command = resume_command(ROOT, known, str(file.relative_to(ROOT) if file.is_relative_to(ROOT) else file))
    sys.stdout.write((json.dumps({"command": shlex.split(command)}) if options.json else command) + "\n")
    return 0


def checkpoint_findings(root: Path) -> Iterator[Finding]:
    """Find the runs whose newest live checkpoint is newer than their published one; those in progress are left out."""
    for folder in sorted(path for path in root.glob("exp/[!.]*") if path.is_dir()):
        live = _whole(folder)
        if not live or _is_held(folder):
            continue
        newest, known = max(live.items(), key=lambda entry: (entry[1].get("saved_at", ""), entry[1]["step"]))
        published = _whole(folder / "published").values()
        own = [other["step"] for other in published if other.get("run_id") == known.get("run_id")]
        if own and max(own) >= known["step"]:
            continue
        name, steps = newest.relative_to(root), known["config"].get("steps")
        what = f"step {max(own)}" if own else "another run" if published else "nothing"
        text = f"{name}: step {known['step']} of {steps}, newer than what its folder has published ({what})"
        # Another experiment was checked out over a run that had ended: no work is waiting.
        is_problem = not (published and not own and known["step"] >= steps)
        yield Finding("checkpoint", text, [resume_command(root, known, str(name))], is_problem=is_problem)


def resume_command(root: Path, known: dict[str, Any], checkpoint: str) -> str:
    """Return the command that goes on from a checkpoint with the settings that it was made with.

    Args:
        known: the checkpoint's JSON.
        checkpoint: its path from the repository.
    """
    stage, config = known["stage"], known["config"]
    resume = f"{NOT_REPEATED}={_word(checkpoint)}"
    params = _read_params(root)
    if stage in TRAINING_STAGES and config["name"] == params.get(stage, {}).get("name"):
        wanted = {key: value for key, value in params.items() if key not in DERIVED} | {stage: config}
        starts = [[], *([f"experiment={path.stem}"] for path in sorted(root.glob("configs/experiment/*.yaml")))]
        starts += [[f"{stage}={path.stem}"] for path in root.glob(f"configs/{stage}/{config['name']}.yaml")]
        _, words = _nearest(root, [Base("", "pipeline", start) for start in starts], wanted)
        return shlex.join(["uv", "run", "dvc", "exp", "run", *_each("-S", [*words, resume])])
    names = sorted(path.stem for path in root.glob(f"configs/{stage}/*.yaml"))
    bases = [Base(stage, name, []) for name in ([config["name"]] if config["name"] in names else names)]
    if not bases:
        return shlex.join(["uv", "run", f"stages/{stage}.py", resume])
    base, words = _nearest(root, bases, config)
    return shlex.join(["uv", "run", f"stages/{stage}.py", f"--config-name={base.name}", *words, resume])


@dataclass(frozen=True)
class Base:
    """Where a composition begins: a group under configs/, a file in it, overrides."""

    group: str
    name: str
    overrides: list[str]


def _nearest(root: Path, bases: list[Base], wanted: dict[str, Any]) -> tuple[Base, list[str]]:
    """Return the base that needs the fewest further overrides to give `wanted`, and all its overrides."""
    base, differing = bases[0], None
    for one in bases:
        found = _differing(root, one, one.overrides, wanted)
        if found is not None and (differing is None or len(found) < len(differing)):
            base, differing = one, found
        if not differing and differing is not None:
            break
    words = list(base.overrides)
    for _ in range(3):  # values that follow from others may come right with them, and are set only after that
        if not differing:
            break
        words += [f"{key}={_word(value)}" for key, value in differing.items()]
        differing = _differing(root, base, words, wanted)
    return base, words


def _differing(root: Path, base: Base, overrides: list[str], wanted: dict[str, Any]) -> dict[str, Any] | None:
    """Return the wanted values that a composition does not give: those that it sets itself, else those that follow.

    None where it does not compose: configs/ has to be mended first.
    """
    after = flatten(wanted)
    try:
        before, raw = _compose(root, base, overrides)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, FileNotFoundError):
        return None
    keys = [key for key in after if key in before and not key.endswith(NOT_REPEATED) and before[key] != after[key]]
    direct = [key for key in keys if "${" not in str(raw.get(key))]
    return {key: after[key] for key in direct or keys}


def _compose(root: Path, base: Base, overrides: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a composition's values by dotted name, and the same unresolved."""
    Plugins.instance()
    with initialize_config_dir(str(root / "configs" / base.group), version_base="1.3"):
        config = compose(base.name, overrides=overrides)
    raw, plain = (OmegaConf.to_container(config, resolve=resolve) for resolve in (False, True))
    return flatten(plain), flatten(raw)


def _whole(folder: Path) -> dict[Path, dict[str, Any]]:
    """Return the JSON of each checkpoint that has one and the size that it says."""
    known = {path: summary_of(path) for path in folder.glob("checkpoint_*.pt")}
    return {path: one for path, one in known.items() if one and one.get("bytes") == path.stat().st_size}


def _is_held(folder: Path) -> bool:
    """Say whether a process trains in a run's folder."""
    lock = folder / ".lock"
    if not lock.is_file():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _read_params(root: Path) -> dict[str, Any]:
    try:
        params = yaml.safe_load((root / "params.yaml").read_text())
    except (OSError, yaml.YAMLError):
        return {}
    return params if isinstance(params, dict) else {}


def _word(value: Any) -> str:
    """Write a value as Hydra reads it in an override."""
    if isinstance(value, list):
        return f"[{','.join(_word(one) for one in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}: {_word(one)}' for key, one in value.items())}}}"
    if not isinstance(value, str):
        return json.dumps(value)
    is_plain = re.fullmatch(r"[A-Za-z_/.][\w./:-]*", value) and value.lower() not in (
        "null",
        "true",
        "false",
        "nan",
        "inf",
    )
    return value if is_plain else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _each(flag: str, words: list[str]) -> list[str]:
    return [part for word in words for part in (flag, word)]
