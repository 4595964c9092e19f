"""`miipher2 checkpoint replay`: makes the updates between two checkpoints of a run once more, and compares the bits."""

import argparse
import json
import math
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from miipher2 import rng
from miipher2.commands.difference import Difference, compare
from miipher2.commands.listing import summary_of
from miipher2.config import ROOT, stage_config
from miipher2.data.prepared import Prepared
from miipher2.environment import describe_environment, start_runtime
from miipher2.stage import train_run
from miipher2.training.checkpoint import load
from miipher2.training.recipe import Recipe
from miipher2.training.run import Run

# Stage → recipe and the metric whose lowest value is remembered, as the scripts in stages/ have it.
RECIPES = {
    "train_adapter": ("miipher2.recipes.adapter", "AdapterRecipe", "valid/loss"),
    "pre_train_vocoder": ("miipher2.recipes.vocoder", "VocoderRecipe", "valid/mel"),
    "finetune_vocoder": ("miipher2.recipes.vocoder", "VocoderRecipe", "valid/mel"),
    "pretrain_ssl": ("miipher2.recipes.ssl", "SslRecipe", "valid/loss"),
}
INTERVALS = ("log_interval", "validation_interval")


def run(options: argparse.Namespace) -> int:
    """Replay and say whether the bits are the same."""
    waypoints = find_waypoints(options.start, options.end)
    with tempfile.TemporaryDirectory(prefix="miipher2-replay-") as scratch:
        replayed = replay(options.start, waypoints, Path(scratch))
    equal_at, difference, last = replayed.equal_at, replayed.difference, max(waypoints)
    if options.json:
        found: dict[str, Any] = {"identical": difference is None, "from": replayed.start_step, "to": last}
        found |= {"equal_at": equal_at, "differs_at": replayed.differs_at, "first_difference": None, "largest": None}
        if difference is not None:
            found |= {"first_difference": difference.name, "largest": difference.largest}
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    elif difference is None:
        steps = ", ".join(str(step) for step in equal_at)
        sys.stdout.write(f"bit-identical: updates {replayed.start_step + 1} to {last}, compared at {steps}\n")
    else:
        before = max([replayed.start_step, *equal_at])
        sys.stdout.write(f"different: {difference}; it arose between step {before} and step {replayed.differs_at}\n")
    return int(difference is not None)


def find_waypoints(start: Path, end: Path) -> dict[int, Path]:
    """Return the checkpoints to compare with, by step: `end`, and those of the run before it in the same folder.

    Raises:
        FileNotFoundError: one of the two is missing.
        ValueError: they are not an earlier and a later checkpoint of one run, or it had several processes.
    """
    (first, _), (last, _) = load(start), load(end)
    for key in ("stage", "run_id"):
        if first[key] != last[key]:
            raise ValueError(f"{start} has the {key} {first[key]}, {end} has {last[key]}; they should be of one run")
    if (count := max(int(each["environment"].get("ranks", 1)) for each in (first, last))) > 1:
        raise ValueError(f"{end}: made by {count} processes, which add in another order than the one that replays")
    if first["step"] >= last["step"]:
        raise ValueError(f"{start} is at step {first['step']} and {end} at {last['step']}; FROM should be the earlier")
    found = {last["step"]: end}
    for path in end.parent.glob("checkpoint_*.pt"):
        known = summary_of(path)
        if known.get("run_id") == last["run_id"] and first["step"] < known["step"] < last["step"]:
            found[known["step"]] = path
    return dict(sorted(found.items()))


def replay(start: Path, waypoints: dict[int, Path], scratch: Path) -> "Replayed":
    """Make the updates from `start` to the last waypoint in the folder `scratch`, up to the first that differs.

    Raises:
        FileNotFoundError: data or earlier weights are missing.
        ValueError: the code at hand cannot go on from `start`.
    """
    content, _ = load(start)
    stage = content["stage"]
    if stage not in RECIPES:
        raise ValueError(f"{start}: of the stage {stage}; this version has {', '.join(RECIPES)}")
    # Of what may not change a result: as far as the last waypoint, saving at each, and nothing of it to W&B.
    checkpoint = {"save_interval": math.gcd(*waypoints), "keep_last_n": 1}
    without_result = {"steps": max(waypoints), "checkpoint": checkpoint, "wandb": {"mode": "disabled"}}
    try:
        config = stage_config(OmegaConf.merge(content["config"], without_result), stage)
    except OmegaConfBaseException as error:
        raise ValueError(f"{start}: this version of the code cannot read its configuration: {error}") from None
    module, name, best_metric = RECIPES[stage]
    settings = config.runtime
    device = start_runtime(settings.device, settings.deterministic, settings.threads)
    data = Prepared.read(ROOT, config.data.prepared)
    rng.seed_global(config.seed)
    recipe: Recipe = getattr(import_module(module), name).from_config(config, device, ROOT)
    replayed = Replayed(
        stage=stage,
        folder=scratch,
        config=content["config"],
        data_sha256=data.digest,
        sources=recipe.sources,
        environment=describe_environment(device),
        waypoints=waypoints,
    )
    replayed.begin(str(start), start.resolve(), "warn")
    replayed.restore(recipe)
    with suppress(_DiffersError):
        train_run(config, replayed, recipe, data, best_metric, lambda _: "the same command; a replay keeps nothing")
    return replayed


@dataclass
class Replayed(Run):
    """A run whose checkpoints are compared with earlier ones of the same steps.

    Args:
        waypoints: the earlier ones, by step.
        equal_at: the steps at which all bits were the same.
        differs_at: the first step at which they were not, and `difference` the first value.
    """

    waypoints: dict[int, Path] = field(default_factory=dict)
    equal_at: list[int] = field(default_factory=list)
    differs_at: int | None = None
    difference: Difference | None = None

    def save(
        self,
        recipe: Recipe,
        step: int,
        *,
        chance: list[dict[str, Any]],
        history: str,
        best: dict[str, Any] | None,
        wandb: dict[str, str] | None,
    ) -> Path:
        """Save into the scratch folder where there is an earlier checkpoint of the step, and compare with that.

        Raises:
            _DiffersError: they differ; the updates that would follow could not be the same.
        """
        if step not in self.waypoints:
            return self.folder
        saved = super().save(recipe, step, chance=chance, history=history, best=best, wandb=wandb)
        (earlier, _), (again, _) = load(self.waypoints[step]), load(saved)
        if any(earlier["config"][key] != self.config[key] for key in INTERVALS):  # other rows, for that reason alone
            for content in (earlier, again):
                del content["history"], content["best"]
        differences, _ = compare(earlier, again)
        if differences:
            self.differs_at, self.difference = step, differences[0]
            raise _DiffersError
        self.equal_at.append(step)
        return saved


class _DiffersError(Exception):
    """Ends the loop at the first difference."""
