"""`miipher2 checkpoint replay`: repeats the updates between two checkpoints of a run, and compares the bits."""

import argparse
import json
import math
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from miipher2.cli.checkpoint_diff import Difference, compare
from miipher2.config.load import load_config
from miipher2.config.paths import ROOT
from miipher2.config.schema import STAGES
from miipher2.data.prepared import PreparedData
from miipher2.training.checkpoint import load
from miipher2.training.recipe import Recipe
from miipher2.training.run import Run
from miipher2.training.stage import Training, make_recipe, start_device
from miipher2.training.summary import read_summary

INTERVALS = ("log_interval", "validation_interval")


def run(options: argparse.Namespace) -> int:
    """Replay, and report whether the bits are the same."""
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
        ours, theirs = getattr(first, key), getattr(last, key)
        if ours != theirs:
            raise ValueError(f"{start} has the {key} {ours}, {end} has {theirs}; both should belong to one run")
    if (world_size := max(int(each.environment.get("world_size", 1)) for each in (first, last))) > 1:
        raise ValueError(f"{end}: made by {world_size} processes, which add in another order than the one that replays")
    if first.step >= last.step:
        raise ValueError(f"{start} is at step {first.step} and {end} at {last.step}; FROM should be the earlier")
    found = {last.step: end}
    for path in end.parent.glob("checkpoint_*.pt"):
        summary = read_summary(path)
        if summary.get("run_id") == last.run_id and first.step < summary["step"] < last.step:
            found[summary["step"]] = path
    return dict(sorted(found.items()))


def replay(start: Path, waypoints: dict[int, Path], scratch: Path) -> "ReplayedRun":
    """Make the updates from `start` to the last waypoint in the folder `scratch`, up to the first that differs.

    Raises:
        FileNotFoundError: data or earlier weights are missing.
        ValueError: this version of the code cannot resume from `start`.
    """
    first, _ = load(start)
    if first.stage not in STAGES:
        raise ValueError(f"{start}: of the stage {first.stage}; this version has {', '.join(STAGES)}")
    # Settings that cannot change a result: train to the last waypoint, save at each, and log nothing to W&B.
    checkpoint = {
        "resume_from": str(start.resolve()),
        "save_interval": math.gcd(*waypoints),
        "keep_last_n": 1,
        "on_config_change": "warn",
    }
    settings = {"steps": max(waypoints), "checkpoint": checkpoint, "wandb": {"mode": "disabled"}}
    merged = OmegaConf.merge(first.config, settings)
    assert isinstance(merged, DictConfig)
    try:
        config = load_config(merged, first.stage, STAGES[first.stage].schema)
    except OmegaConfBaseException as error:
        raise ValueError(f"{start}: this version of the code cannot read its configuration: {error}") from None
    device = start_device(config)
    data = PreparedData.read(ROOT, config.data.prepared)
    training = Training.from_config(config, first.stage, make_recipe(first.stage, config, device), data, device)
    run = training.run
    training.run = replayed = ReplayedRun(
        stage=run.stage,
        folder=scratch,
        config=first.config,
        data_sha256=run.data_sha256,
        upstream_digests=run.upstream_digests,
        environment=run.environment,
        waypoints=waypoints,
    )
    training.resume_command = lambda _: "the same command; a replay keeps nothing"
    training.start()
    with suppress(_DifferenceFound):
        training.train()
    return replayed


@dataclass
class ReplayedRun(Run):
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

    def save(self, recipe: Recipe, step: int, **state: Any) -> Path:
        """Save into the scratch folder where there is an earlier checkpoint of the step, and compare the two.

        Raises:
            _DifferenceFound: they differ; later updates could not be the same.
        """
        if step not in self.waypoints:
            return self.folder
        saved = super().save(recipe, step, **state)
        earlier, again = (load(path)[0].as_dict() for path in (self.waypoints[step], saved))
        # Other intervals give other rows, for that reason alone.
        skipped = ("history", "best") if any(earlier["config"][key] != self.config[key] for key in INTERVALS) else ()
        differences, _ = compare(
            *({name: side[name] for name in side if name not in skipped} for side in (earlier, again))
        )
        if differences:
            self.differs_at, self.difference = step, differences[0]
            raise _DifferenceFound
        self.equal_at.append(step)
        return saved


class _DifferenceFound(Exception):
    """Ends the loop at the first difference."""
