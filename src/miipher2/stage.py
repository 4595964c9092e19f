"""One training stage from its configuration: wires data, recipe, run, tracker and loop, for the scripts in stages/."""

import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from miipher2 import rng
from miipher2.batches import INITIAL_BATCHES, make_batches, shown_batch
from miipher2.config import ROOT, TRAINING_STAGES, find_checkpoint, stage_config
from miipher2.data.prepared import Prepared
from miipher2.durable import write_durably
from miipher2.environment import describe_code, describe_environment, log_to_stdout, start_runtime
from miipher2.presenting import Presenter
from miipher2.tracking import NoTracker, Tracker, start_wandb
from miipher2.training import folder as run_folder
from miipher2.training import ranks
from miipher2.training.checkpoint import check_room, size_of
from miipher2.training.loop import Plan, train
from miipher2.training.recipe import Batch, Presenting, Recipe
from miipher2.training.run import Run

log = logging.getLogger(__name__)


def run_stage(
    composed: DictConfig, stage: str, build: Callable[[Any, torch.device, Path], Recipe], best_metric: str
) -> Any:
    """Train one stage as its configuration says, fresh or from `checkpoint.resume_from`; publish and return the recipe.

    Args:
        composed: what Hydra hands to the script: a stage's own configuration, or all of `params.yaml`.
        build: makes the recipe from the configuration, a device and the repository's folder.
        best_metric: the validation metric whose lowest value is remembered.

    Raises:
        FileNotFoundError: `checkpoint.resume_from` names no file; nothing was touched.
        ValueError: the configuration, the data or the checkpoint does not fit; nothing was touched.
    """
    local_rank = ranks.local_rank()
    log_to_stdout(logging.ERROR if int(os.environ.get("RANK", 0)) else logging.INFO)
    config = stage_config(composed, stage)
    path = find_checkpoint(config.checkpoint.resume_from)
    settings = config.runtime
    device = start_runtime(settings.device, settings.deterministic, settings.threads, local_rank)
    ranks.start(device)
    try:
        return _run(config, stage, path, device, build, best_metric, composed)
    finally:
        ranks.stop()


def _run(
    config: DictConfig,
    stage: str,
    path: Path | None,
    device: torch.device,
    build: Callable[[Any, torch.device, Path], Recipe],
    best_metric: str,
    composed: DictConfig,
) -> Recipe:
    if ranks.count() > 1 and stage not in TRAINING_STAGES:
        raise ValueError(f"{stage}: {ranks.count()} processes; its masks hang on the whole batch, so start only one")
    if config.batch_size % ranks.count():
        raise ValueError(f"batch_size={config.batch_size}: should be a multiple of the {ranks.count()} processes")
    data = Prepared.read(ROOT, config.data.prepared)
    rng.seed_global(config.seed)
    recipe = build(config, device, ROOT)
    run = Run(
        stage=stage,
        folder=ROOT / "exp" / config.name,
        config=OmegaConf.to_container(config, resolve=True),
        data_sha256=data.digest,
        sources=recipe.sources,
        environment=describe_environment(device, ranks.count()),
        about=describe_code(ROOT),
    )
    run.begin(config.checkpoint.resume_from, path, config.checkpoint.on_config_change)
    if run.start_step > config.steps:
        raise ValueError(f"steps={config.steps}: {path} is at step {run.start_step}; steps is the step to train to")
    if run.resumed is not None:
        run.restore(recipe)
    # Whoever fails before here has touched nothing, and neither have the others.
    ranks.wait()
    if ranks.rank():
        train_run(config, run, recipe, data, best_metric, resume_command(composed))
        ranks.wait()
        return recipe
    with run_folder.held(run.folder):
        aside = run_folder.set_aside(run.folder, run.parent)
        if aside is not None:
            log.info("Set aside files of another run or of later steps: %s", aside)
        check_room(run.folder, size_of(recipe.state_dict()))
        write_durably(run.folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True).encode())
        final = train_run(config, run, recipe, data, best_metric, resume_command(composed))
        last_n = config.checkpoint.publish_last_n
        published = run_folder.publish(run.folder, run_id=run.run_id, publish_last_n=last_n, weights=recipe.export())
        log.info("Published %s", published)
        if "resume_param" in composed:
            write_results(ROOT / "exp" / "results", stage, final, run.folder / "history.csv")
        ranks.wait()
    return recipe


def train_run(
    config: DictConfig,
    run: Run,
    recipe: Recipe,
    data: Prepared,
    best_metric: str,
    command: Callable[[str], str],
) -> dict[str, float]:
    """Train an opened run to the configured step and return its last validation; nothing is published."""
    batches, validation = make_batches(config, data)
    checkpoint = config.checkpoint
    with rng.guarded():  # feature statistics, W&B and the tracker must not move the generators
        if run.resumed is None:
            recipe.initialise(batches(0, INITIAL_BATCHES, whole=True))
        tracker = NoTracker() if ranks.rank() else start_tracker(config, run, recipe)
    plan = Plan(
        steps=config.steps,
        log_interval=config.log_interval,
        validation_interval=config.validation_interval,
        save_interval=checkpoint.save_interval,
        keep_last_n=checkpoint.keep_last_n,
        best_metric=best_metric,
    )
    exit_code = 1
    try:
        run.restore_chance()
        final = train(
            recipe,
            run,
            plan,
            batches=batches,
            validation=validation,
            tracker=tracker,
            resume_command=command,
            present=make_presenter(config, recipe, partial(shown_batch, config, data), tracker),
        )
        exit_code = 0
    finally:
        tracker.close(exit_code)
    return final


def make_presenter(
    config: DictConfig, recipe: Recipe, batch: Callable[[], tuple[Batch, list[str]]], tracker: Tracker | NoTracker
) -> Callable[[int], None]:
    """Return what shows a few held-out utterances in W&B after a validation; without W&B, what does nothing."""
    wanted = config.wandb.examples
    if not (tracker.shows and wanted.count and isinstance(recipe, Presenting)):
        return lambda step: None
    return Presenter(
        recipe,
        batch,
        tracker.show,
        sample_rate_hz=OmegaConf.select(config, "model.sample_rate_hz") or 16_000,
        steps=config.steps,
        every_steps=config.validation_interval,
        times=wanted.times,
    )


def start_tracker(config: DictConfig, run: Run, recipe: Recipe) -> Tracker:
    """Return what records the run, its W&B run started or gone on with."""
    inherit = config.checkpoint.save_wandb_metadata
    known = run.resumed["wandb"] if run.resumed is not None and inherit else None
    settings: Any = OmegaConf.to_container(config.wandb)
    del settings["examples"]
    wandb_run = start_wandb(run.folder, **settings, config=run.config, inherited=known)
    return Tracker(
        run.folder,
        recipe.metric_names,
        start_step=run.start_step,
        steps=config.steps,
        history="" if run.resumed is None else run.resumed["history"],
        wandb_run=wandb_run,
        inherit_wandb=inherit,
    )


def resume_command(composed: DictConfig) -> Callable[[str], str]:
    """Return what gives the command that goes on from a checkpoint, in the way this run was started."""
    if "resume_param" in composed:
        return _dvc_command
    script, *rest = sys.argv
    kept = [word for word in rest if not word.startswith("checkpoint.resume_from=")]
    begin = shlex.join(["uv", "run", *ranks.launcher(), _relative(script), *kept])
    return lambda path: f"{begin} checkpoint.resume_from={_relative(path)}"


def _dvc_command(path: str) -> str:
    """Return the command for DVC, which forgets every -S of the run before: it names them again.

    Asked of the command line, since no result depends on the code that finds it.
    """
    words = [sys.executable, "-m", "miipher2.cli", "checkpoint", "command", path]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    simple = f"uv run dvc exp run -S checkpoint.resume_from={_relative(path)}"
    return found.stdout.strip() if found.returncode == 0 else f"{simple} (and the -S values of this run)"


def write_results(folder: Path, stage: str, final: dict[str, float], history: Path) -> None:
    """Leave a DVC run's metrics and plots where Git tracks them, by stage and not by config."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: float(f"{value:.6g}") for name, value in sorted(final.items())}
    write_durably(folder / f"{stage}.json", json.dumps(plain, indent=2).encode() + b"\n")
    shutil.copyfile(history, folder / f"{stage}.csv")


def _relative(path: str) -> str:
    absolute = Path(path).resolve()
    return str(absolute.relative_to(ROOT)) if absolute.is_relative_to(ROOT) else str(path)
