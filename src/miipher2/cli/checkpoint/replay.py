"""`miipher2 checkpoint replay`: repeats the updates between two checkpoints of a run, and compares the bits."""

import argparse
import json
import logging
import os
import secrets
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from miipher2.atomic_io import write_atomically
from miipher2.cli.checkpoint.diff import Difference, compare
from miipher2.config.load import load_config
from miipher2.config.paths import ROOT
from miipher2.config.schema import STAGES
from miipher2.data.prepared import PreparedData
from miipher2.rng import stream
from miipher2.training import distributed
from miipher2.training.checkpoint import load
from miipher2.training.run import Run
from miipher2.training.stage import Training, make_recipe, start_device
from miipher2.training.summary import list_checkpoints, read_summary

FOUND = "found_{}.json"  # by rank
INTERVALS = ("log_interval", "validation_interval")


def run(options: argparse.Namespace) -> int:
    """Replay, and report whether the bits are the same."""
    if options.spans is None:
        if options.end is None:
            raise ValueError(f"{options.start}: TO is missing, the checkpoint to replay up to")
        found = replay_span(options.start, options.end)
        sys.stdout.write(json.dumps(found, indent=2) + "\n" if options.json else f"{_sentence(found)}\n")
        return int(not found["identical"])
    if options.spans < 1:
        raise ValueError(f"--spans {options.spans}: should be at least 1")
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    every = find_spans(options.start, options.end)
    count = min(options.spans, len(every))
    chosen = sorted(stream(seed, "spans").permutation(len(every))[:count])
    if not options.json:
        sys.stdout.write(f"{count} of {len(every)} spans, drawn by --seed {seed}\n")
    spans = []
    for number in chosen:
        spans.append(replay_span(*every[number]))
        if not options.json:
            sys.stdout.write(f"{_sentence(spans[-1])}\n")
            sys.stdout.flush()
    identical = all(found["identical"] for found in spans)
    if options.json:
        sys.stdout.write(json.dumps({"identical": identical, "seed": seed, "spans": spans}, indent=2) + "\n")
    return int(not identical)


def find_spans(start: Path, end: Path | None) -> list[tuple[Path, Path]]:
    """Return the neighbouring checkpoints between two, or of the run that saved last in the folder `start`.

    Raises:
        FileNotFoundError, ValueError: as `find_waypoints`, or there are no two checkpoints.
    """
    if end is not None:
        return list(pairwise([start, *find_waypoints(start, end)[0].values()]))
    found = [(path, read_summary(path)) for _, path in list_checkpoints(start)]
    newest = max((summary for _, summary in found if summary), key=lambda it: str(it.get("saved_at")), default={})
    spans = list(pairwise(path for path, summary in found if summary and summary["run_id"] == newest["run_id"]))
    if not spans:
        raise ValueError(f"{start}: should be a folder with two checkpoints of one run, or FROM and TO")
    return spans


def _sentence(found: dict[str, Any]) -> str:
    if found["identical"]:
        steps = ", ".join(str(step) for step in found["equal_at"])
        return f"bit-identical: updates {found['from'] + 1} to {found['to']}, compared at {steps}"
    before = max([found["from"], *found["equal_at"]])
    return f"different: {found['detail']}; it arose between step {before} and step {found['differs_at']}"


def _world_size(environment: dict[str, Any]) -> int:
    return int(environment.get("world_size", 1))


def replay_span(start: Path, end: Path) -> dict[str, Any]:
    """Repeat the updates from one checkpoint to another, in as many processes as made them, and return what differs.

    Raises:
        FileNotFoundError, ValueError: as `find_waypoints` and `replay`, or a process failed; it has printed why.
    """
    waypoints, environment = find_waypoints(start, end)
    world_size = _world_size(environment)
    with tempfile.TemporaryDirectory(prefix="miipher2-replay-") as folder:
        scratch = Path(folder)
        if world_size == 1:
            return replay(start, waypoints, scratch).found()
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world_size}"]
        words = ["-m", "miipher2.cli.checkpoint.replay", *(str(path.resolve()) for path in (start, end)), folder]
        threads = {"OMP_NUM_THREADS": str(environment.get("threads", 1))}
        done = subprocess.run([sys.executable, *launcher, *words], env={**os.environ, **threads}, check=False)
        results = [json.loads(path.read_text()) for path in sorted(scratch.glob(FOUND.format("*")))]
        if failed := [result["error"] for result in results if "error" in result]:
            raise ValueError(failed[0])
        if done.returncode or not results:
            raise ValueError(f"{end}: its {world_size} processes ended with exit code {done.returncode}; see above")
        return dict(results[0])


def run_rank(start: Path, end: Path, scratch: Path) -> int:
    """Replay as one of several processes; rank 0 writes what differs into the scratch folder, each why it failed."""
    rank = int(os.environ["RANK"])
    if rank:
        logging.getLogger("miipher2").setLevel(logging.ERROR)  # rank 0 warns
    try:
        found = replay(start, find_waypoints(start, end)[0], scratch).found()
        distributed.barrier()
    except (ValueError, OSError) as error:
        found = {"error": " ".join(str(error).split())}
    finally:
        distributed.destroy()
    if "error" in found or not rank:
        write_atomically(scratch / FOUND.format(rank), json.dumps(found).encode())
    return int("error" in found)


def find_waypoints(start: Path, end: Path) -> tuple[dict[int, Path], dict[str, Any]]:
    """Return the checkpoints to compare with, by step, and the environment that `end` was made in.

    They are `end`, and those of the run before it in the same folder.

    Raises:
        FileNotFoundError: one of the two is missing.
        ValueError: they are not an earlier and a later checkpoint of one run, or its number of processes changed.
    """
    (first, _), (last, _) = load(start), load(end)
    for key in ("stage", "run_id"):
        ours, theirs = getattr(first, key), getattr(last, key)
        if ours != theirs:
            raise ValueError(f"{start} has the {key} {ours}, {end} has {theirs}; both should belong to one run")
    if first.step >= last.step:
        raise ValueError(f"{start} is at step {first.step} and {end} at {last.step}; FROM should be the earlier")
    found = {last.step: end}
    for path in end.parent.glob("checkpoint_*.pt"):
        summary = read_summary(path)
        if summary.get("run_id") == last.run_id and first.step < summary["step"] < last.step:
            found[summary["step"]] = path
            if (count := _world_size(summary.get("environment", {}))) != _world_size(last.environment):
                made = f"made by {count} processes, {end} by {_world_size(last.environment)}"
                raise ValueError(f"{path}: {made}; replay the spans before and after it")
    return dict(sorted(found.items())), last.environment


def replay(start: Path, waypoints: dict[int, Path], scratch: Path) -> "ReplayedRun":
    """Make the updates from `start` to the last waypoint in the folder `scratch`, up to the first that differs.

    Raises:
        FileNotFoundError: data or earlier weights are missing.
        ValueError: this version of the code cannot resume from `start`.
    """
    first, _ = load(start)
    if first.stage not in STAGES:
        raise ValueError(f"{start}: of the stage {first.stage}; this version has {', '.join(STAGES)}")
    # Settings that cannot change a result: train to the last waypoint, and log nothing to W&B.
    checkpoint = {"resume_from": str(start.resolve()), "keep_last_n": 1, "on_config_change": "warn"}
    settings = {"steps": max(waypoints), "checkpoint": checkpoint, "wandb": {"mode": "disabled"}}
    merged = OmegaConf.merge(first.config, settings)
    assert isinstance(merged, DictConfig)
    try:
        config = load_config(merged, first.stage, STAGES[first.stage].schema)
    except OmegaConfBaseException as error:
        raise ValueError(f"{start}: this version of the code cannot read its configuration: {error}") from None
    device = start_device(config)
    distributed.init(device)
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
    distributed.barrier()
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

    def found(self) -> dict[str, Any]:
        """Return what was compared and what differs, as plain values."""
        difference = self.difference
        return {
            "identical": difference is None,
            "from": self.start_step,
            "to": max(self.waypoints),
            "equal_at": self.equal_at,
            "differs_at": self.differs_at,
            "first_difference": None if difference is None else difference.name,
            "largest": None if difference is None else difference.largest,
            "detail": None if difference is None else str(difference),
        }

    def is_due(self, step: int, save_interval: int) -> bool:
        """Return whether there is an earlier checkpoint to compare with."""
        return step in self.waypoints

    def save(self, state: dict[str, Any], step: int, **others: Any) -> Path:
        """Save into the scratch folder where there is an earlier checkpoint of the step, and compare the two.

        Raises:
            _DifferenceFound: they differ; later updates could not be the same. Of several processes none may end early,
                so there the later ones are not compared.
        """
        if step not in self.waypoints or self.difference is not None:
            return self.folder
        saved = super().save(state, step, **others)
        earlier, again = ({**load(path)[0].as_dict(), **_batches(path)} for path in (self.waypoints[step], saved))
        # Other intervals give other rows, for that reason alone.
        skipped = {"history", "best"} if any(earlier["config"][key] != self.config[key] for key in INTERVALS) else set()
        if earlier.get("batches_since") != again["batches_since"]:  # it goes on from another one, or has no record
            skipped |= {"batches", "batches_since"}
        differences, _ = compare(
            *({name: side[name] for name in side if name not in skipped} for side in (earlier, again))
        )
        if not differences:
            self.equal_at.append(step)
            return saved
        self.differs_at, self.difference = step, differences[0]
        if distributed.world_size() == 1:
            raise _DifferenceFound
        return saved


def _batches(path: Path) -> dict[str, Any]:
    """Return the digest of the batches since a checkpoint's parent, and the step of that."""
    since = read_summary(path).get("since_parent", {})
    return {"batches": since.get("batches_sha256"), "batches_since": since.get("step")}


class _DifferenceFound(Exception):
    """Ends the loop at the first difference."""


if __name__ == "__main__":  # one process of a replay of several
    sys.exit(run_rank(*(Path(word) for word in sys.argv[1:])))
