"""One training stage, from its configuration to `published/`: what the scripts in stages/ call."""

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import DictConfig

from miipher2 import rng
from miipher2.atomic_io import write_atomically
from miipher2.config.command import resume_command, starting_command
from miipher2.config.load import is_pipeline, load_config
from miipher2.config.paths import ROOT, find_run_problem
from miipher2.config.resume_routing import check_path, find_checkpoint
from miipher2.config.schema import STAGES, TrainingConfig
from miipher2.data.dataloader import INITIAL_BATCHES, make_batches, sample_batch
from miipher2.data.prepared import PreparedData
from miipher2.models.precision import choose_precision, set_tf32
from miipher2.models.pretrained import licences_of_start
from miipher2.tracking.progress import Progress
from miipher2.tracking.samples import SampleLogger
from miipher2.tracking.wandb_run import WandbRun, start_wandb
from miipher2.training import distributed, run_dir
from miipher2.training.checkpoint import check_free_space, size_of
from miipher2.training.environment import describe_code, describe_environment, log_to_stdout, start_runtime
from miipher2.training.history import History
from miipher2.training.loop import Loop, LoopConfig
from miipher2.training.recipe import Batch, HasSamples, Recipe
from miipher2.training.run import Run
from miipher2.training.summary import list_checkpoints

log = logging.getLogger(__name__)


def run_stage(composed: DictConfig, stage: str) -> Recipe:
    """Train one stage as configured, fresh or from `checkpoint.resume_from`; publish, and return the recipe.

    Args:
        composed: what Hydra passes to the script: the stage's own configuration, or all of `params.yaml`.
        stage: a name in `config.schema.STAGES`.

    Raises:
        FileNotFoundError: `checkpoint.resume_from` names no file; nothing was touched.
        ValueError: the configuration, the data or the checkpoint does not fit; nothing was touched.
    """
    log_to_stdout(logging.ERROR if int(os.environ.get("RANK", 0)) else logging.INFO)
    config = load_config(composed, stage, STAGES[stage].schema)
    if config.checkpoint.resume_from is not None:
        find_checkpoint(check_path(config.checkpoint.resume_from))
    if problem := find_run_problem(config.name):
        raise ValueError(f"name={config.name}: {problem}")
    device = start_device(config)
    config = replace(config, precision=choose_precision(config.precision, device))  # what runs is recorded
    distributed.init(device)
    try:
        if distributed.world_size() > 1 and not STAGES[stage].is_in_pipeline:
            raise ValueError(f"{stage}: {distributed.world_size()} processes; its masks cover whole batches: start one")
        if config.batch_size % distributed.world_size():
            raise ValueError(
                f"batch_size={config.batch_size}: should be a multiple of the {distributed.world_size()} processes"
            )
        data = PreparedData.read(ROOT, config.data.prepared)
        recipe = make_recipe(stage, config, device)
        training = Training.from_config(config, stage, recipe, data, device)
        command = starting_command(composed, distributed.launch_command())
        training.run.about["command"] = command
        training.resume_command = partial(resume_command, command)
        final = training.train_and_publish()
        if is_pipeline(composed) and not distributed.rank():
            write_results(ROOT / "exp" / "results", stage, final, training.run.folder / "history.csv")
        distributed.barrier()
        return recipe
    finally:
        distributed.destroy()


def start_device(config: TrainingConfig) -> torch.device:
    """Start the runtime as configured and return the device."""
    runtime = config.runtime
    set_tf32(config.precision)
    return start_runtime(runtime.device, runtime.deterministic, runtime.threads, distributed.local_rank())


def make_recipe(stage: str, config: TrainingConfig, device: torch.device) -> Recipe:
    """Seed the global generators and return the stage's recipe with fresh weights."""
    rng.seed_all(config.seed)
    module, _, name = STAGES[stage].recipe.partition(":")
    return getattr(import_module(module), name).from_config(config, device, ROOT)


@dataclass
class Training:
    """A stage that is ready to train: configuration, recipe, run and batches.

    Args:
        batches, validation: as for `Loop`; `batches` also takes `whole=True` for the batch of all ranks.
        sample_batch: gives the utterances to log to W&B, with their names.
    """

    config: TrainingConfig
    recipe: Recipe
    run: Run
    best_metric: str
    batches: Callable[..., Iterable[Batch]]
    validation: Callable[[], Iterable[Batch]]
    sample_batch: Callable[[], tuple[Batch, list[str]]] | None = None
    resume_command: Callable[[str], str] = str
    aside: Path | None = None  # where files of another run, or of later steps, were moved

    @classmethod
    def from_config(
        cls, config: TrainingConfig, stage: str, recipe: Recipe, data: PreparedData, device: torch.device
    ) -> "Training":
        """Return the training of a stage on prepared data, in its folder below exp/."""
        rank, world_size = distributed.rank(), distributed.world_size()
        batches, validation = make_batches(config, data, rank=rank, world_size=world_size)
        values = asdict(config)
        encoder = values.get("model", {}).get("hubert_model_name", "")
        licences = licences_of_start(encoder, values.get("init_from", {}), ROOT)
        run = Run(
            stage=stage,
            folder=ROOT / "exp" / config.name,
            config=values,
            data_sha256=data.digest,
            upstream_digests=recipe.upstream_digests,
            environment=describe_environment(device, world_size),
            about=describe_code(ROOT) | ({"licences": licences} if licences else {}),
        )
        return cls(
            config, recipe, run, STAGES[stage].best_metric, batches, validation, partial(sample_batch, config, data)
        )

    def start(self) -> None:
        """Start the run fresh or from `checkpoint.resume_from`; nothing on disk is touched.

        Raises:
            FileNotFoundError, ValueError: the checkpoint is missing, damaged, or does not fit.
        """
        checkpoint = self.config.checkpoint
        path = find_checkpoint(checkpoint.resume_from)
        self.run.start(
            checkpoint.resume_from,
            path,
            checkpoint.on_config_change,
            allow_other_devices=checkpoint.allow_other_devices,
        )
        if self.run.start_step > self.config.steps:
            raise ValueError(
                f"steps={self.config.steps}: {path} is at step {self.run.start_step}; steps is the step to train to"
            )
        if self.run.resumed is not None:
            self.run.restore(self.recipe)

    def train_and_publish(self) -> dict[str, float]:
        """Start, train in the run's folder, publish, and return the last validation's metrics."""
        self.start()
        # Whoever fails before here has touched nothing, and neither has any other rank.
        distributed.barrier()
        if distributed.rank():
            final = self.train()
            distributed.barrier()
            return final
        folder, config = self.run.folder, self.config
        with run_dir.lock(folder):
            self.aside = run_dir.set_aside(folder, self.run.parent)
            if self.aside is not None:
                log.info("Set aside files of another run or of later steps: %s", self.aside)
            self._check_free_space()
            write_atomically(folder / "config.yaml", yaml.safe_dump(self.run.config, sort_keys=False).encode())
            final = self.train()
            published = run_dir.publish(
                folder,
                run_id=self.run.run_id,
                publish_last_n=config.checkpoint.publish_last_n,
                weights=self.recipe.export(),
                chain=self.run.chain,
            )
            log.info("Published %s", published)
            distributed.barrier()
        return final

    def train(self) -> dict[str, float]:
        """Train a started run to the configured step and return the last validation's metrics; publish nothing."""
        config, run, is_main = self.config, self.run, distributed.rank() == 0
        resumed = run.resumed
        inherited = resumed.wandb if resumed is not None and config.checkpoint.save_wandb_metadata else None
        wandb_run: WandbRun | None = None
        with rng.guarded():  # feature statistics and W&B must not advance the generators
            if resumed is None:
                self.recipe.initialise(self.batches(0, INITIAL_BATCHES, whole=True))
            if is_main:
                wandb_run = start_wandb(run.folder, config.wandb, run.config, inherited)
        identity = inherited if wandb_run is None else wandb_run.identity
        progress = Progress(run.start_step, config.steps) if is_main else None
        text = "" if resumed is None else resumed.history
        loop = Loop(
            self.recipe,
            run,
            LoopConfig(
                steps=config.steps,
                log_interval=config.log_interval,
                validation_interval=config.validation_interval,
                save_interval=config.checkpoint.save_interval,
                keep_last_n=config.checkpoint.keep_last_n,
                best_metric=self.best_metric,
            ),
            batches=self.batches,
            validation=self.validation,
            history=History(self.recipe.metric_names, path=run.folder / "history.csv" if is_main else None, text=text),
            loggers=[each for each in (progress, wandb_run) if each is not None],
            wandb=identity if config.checkpoint.save_wandb_metadata else None,
            resume_command=self.resume_command,
            after_validation=self._sample_logger(wandb_run),
        )
        exit_code = 1
        try:
            run.restore_rng()
            final = loop.train()
            exit_code = 0
        finally:
            if progress is not None:
                progress.close()
            if wandb_run is not None:
                wandb_run.close(exit_code)
        return final

    def _check_free_space(self) -> None:
        """Check that there is room for a checkpoint, and warn where rotation will keep more than there is room for.

        Raises:
            OSError: there is no room for one.
        """
        each, checkpoint = size_of(self.recipe.state_dict()), self.config.checkpoint
        check_free_space(self.run.folder, each)
        coming = math.ceil((self.config.steps - self.run.start_step) / checkpoint.save_interval)
        kept = max(1, checkpoint.keep_last_n + 1 - len(list_checkpoints(self.run.folder)))  # one goes after one came
        needed, free = min(coming, kept) * each, shutil.disk_usage(self.run.folder).free
        if needed > free:
            log.warning(
                "%s: the checkpoints to come take %.1f GB and %.1f GB are free (the last %d are kept, %.2f GB each): "
                "lower checkpoint.keep_last_n or raise checkpoint.save_interval",
                *(self.run.folder, needed / 1e9, free / 1e9, checkpoint.keep_last_n, each / 1e9),
            )

    def _sample_logger(self, wandb_run: WandbRun | None) -> Callable[[int], None]:
        """Return what logs a few validation utterances to W&B after a validation; without W&B, a no-op."""
        wanted = self.config.wandb.examples
        if (
            wandb_run is None
            or not wanted.count
            or self.sample_batch is None
            or not isinstance(self.recipe, HasSamples)
        ):
            return lambda step: None
        return SampleLogger(
            self.recipe.samples,
            self.sample_batch,
            wandb_run.log_media,
            sample_rate_hz=self.config.target_rate_hz,
            steps=self.config.steps,
            every_steps=self.config.validation_interval,
            times=wanted.times,
        )


def write_results(folder: Path, stage: str, final: dict[str, float], history: Path) -> None:
    """Write a DVC run's metrics and plots to where Git tracks them, by stage and not by configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    plain: dict[str, Any] = {name: float(f"{value:.6g}") for name, value in sorted(final.items())}
    write_atomically(folder / f"{stage}.json", json.dumps(plain, indent=2).encode() + b"\n")
    shutil.copyfile(history, folder / f"{stage}.csv")
