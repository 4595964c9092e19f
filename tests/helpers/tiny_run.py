"""A run small enough to be repeated hundreds of times, in which every kind of state matters."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from miipher2 import rng
from miipher2.config.schema import (
    CheckpointConfig,
    OptimConfig,
    RuntimeConfig,
    SchedulerConfig,
    TrainingConfig,
    WandbConfig,
)
from miipher2.config.schema_data import DataConfig, LoaderConfig
from miipher2.training import checkpoint
from miipher2.training.ema import ExponentialMovingAverage
from miipher2.training.optimizer import NetworkOptimizer
from miipher2.training.recipe import Batch, Metrics
from miipher2.training.run import Run
from miipher2.training.schedule import learning_rate
from miipher2.training.stage import Training
from miipher2.training.summary import json_path

# What a checkpoint of the run records, and a resume compares.
CONFIG: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "batch_size": 4,
    "model": {"dim": 6, "layer": 4},
    "optim": {"lr": 0.05, "betas": [0.9, 0.99]},
    "wandb": {"mode": "disabled"},
}


class TinyRecipe:
    """Two networks and an EMA; an update draws from the global generators of Python, NumPy and PyTorch."""

    metric_names = ("loss", "loss_d", "valid/loss")

    def __init__(self, dim: int = 6, ema: bool = True) -> None:
        self.upstream_digests = {"encoder": "0" * 64}
        self.model = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(0.3), nn.BatchNorm1d(dim, momentum=None))
        self.discriminator = nn.Linear(dim, 1)
        rate = partial(
            learning_rate, lr=0.05, name="cosine", warmup_steps=3, decay_steps=20, final_ratio=0.1, decay_per_step=1.0
        )
        make = partial(NetworkOptimizer, schedule=rate, weight_decay=0.01, betas=(0.9, 0.99), max_grad_norm=1.0)
        self.generator_optimizer = make("g", self.model.named_parameters())
        self.discriminator_optimizer = make("d", self.discriminator.named_parameters())
        self.ema = ExponentialMovingAverage(self.model, 0.8) if ema else None
        self.between: Callable[[int], None] = lambda step: None  # called between the two networks' updates

    def initialise(self, batches: Iterable[Batch]) -> None:
        """Need nothing."""

    def update(self, batch: Batch, step: int) -> Metrics:
        """Update both networks, with noise from every global generator."""
        # An odd number of them, so that NumPy keeps the second of a pair, as Python does.
        noise = np.random.standard_normal(batch["x"].numel() + 1)[:-1] * random.gauss(0, 0.1)  # noqa: NPY002
        noise = noise.reshape(batch["x"].shape).astype(np.float32)
        fake = self.model(batch["x"] + torch.from_numpy(noise))
        score_fake, score_real = self.discriminator(fake.detach()), self.discriminator(batch["x"])
        loss_d = (score_fake - 1).square().mean() + score_real.square().mean()
        self.discriminator_optimizer.minimize(loss_d, step)
        self.between(step)
        loss_g = self.discriminator(fake).square().mean() + (fake - batch["x"]).abs().mean() + 0.01 * torch.rand(())
        self.generator_optimizer.minimize(loss_g, step)
        if self.ema is not None:
            self.ema.update(self.model, self.generator_optimizer.finite.found_inf)
        return {"loss": loss_g.detach(), "loss_d": loss_d.detach()}

    def validate(self, batch: Batch) -> Metrics:
        """Draw from every global generator, as a library's metric might."""
        random.random(), np.random.rand(3), torch.rand(5)  # noqa: NPY002
        networks = [self.model, *([] if self.ema is None else [self.ema.module])]
        for network in networks:
            network.eval()
        with torch.no_grad():
            outputs = [network(batch["x"]).square().mean() for network in networks]
        for network in networks:
            network.train()
        return {"valid/loss": torch.stack(outputs).sum()}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that `update` changes."""
        optimizers = (self.generator_optimizer, self.discriminator_optimizer)
        return {
            "model": {**self._named(self.model, "g."), **self._named(self.discriminator, "d.")},
            "optimizers": {each.name: each.optimizer_state() for each in optimizers},
            "schedules": {each.name: each.schedule_state() for each in optimizers},
            "ema": {} if self.ema is None else dict(self.ema.state_dict()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load such a state."""
        for module, prefix in ((self.model, "g."), (self.discriminator, "d.")):
            own = {name[2:]: tensor for name, tensor in state["model"].items() if name.startswith(prefix)}
            module.load_state_dict(own)
        if self.ema is not None:
            self.ema.load(state["ema"], state["schedules"]["g"]["updates"])
        for each in (self.generator_optimizer, self.discriminator_optimizer):
            each.load(state["optimizers"][each.name], state["schedules"][each.name])

    def export(self) -> dict[str, dict[str, Tensor]]:
        """Return the generator."""
        return {"final": dict(self.model.state_dict())}

    @staticmethod
    def _named(module: nn.Module, prefix: str) -> dict[str, Tensor]:
        return {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}


@dataclass
class Tiny:
    """A tiny run's settings; the fields are what tests change."""

    folder: Path
    steps: int = 12
    log_interval: int = 1
    validation_interval: int = 3
    save_interval: int = 4
    keep_last_n: int = 500
    on_config_change: str = "warn"
    allow_other_devices: bool = False
    stage: str = "tiny"
    wandb: dict[str, Any] = field(default_factory=dict)
    save_wandb_metadata: bool = True
    config: dict[str, Any] = field(default_factory=lambda: CONFIG)
    environment: dict[str, str] = field(default_factory=lambda: {"threads": "1"})
    make_recipe: Callable[[], TinyRecipe] = TinyRecipe
    before_first_update: Callable[[], None] = lambda: None

    def __call__(self, resume_from: str | Path | None = None) -> Training:
        """Train to `steps` and publish, by the code that trains a stage."""
        rng.seed_all(self.config["seed"])
        recipe = self.make_recipe()
        training = Training(
            self._training_config(resume_from),
            recipe,
            self.run_of(recipe),
            "valid/loss",
            self._batches,
            lambda: [{"x": torch.ones(2, 6)}],
            resume_command=lambda path: f"resume from {path}",
        )
        training.train_and_publish()
        return training

    def run_of(self, recipe: TinyRecipe) -> Run:
        """Return a run that has not started."""
        return Run(
            stage=self.stage,
            folder=self.folder,
            config=self.config,
            data_sha256="d" * 64,
            upstream_digests=recipe.upstream_digests,
            environment=self.environment,
        )

    def _training_config(self, resume_from: str | Path | None) -> TrainingConfig:
        optim = OptimConfig(
            lr=0.05, weight_decay=0.01, betas=[0.9, 0.99], max_grad_norm=1.0, scheduler=SchedulerConfig()
        )
        return TrainingConfig(
            name=str(self.config.get("name")),
            seed=self.config["seed"],
            steps=self.steps,
            batch_size=4,
            precision="fp32",
            validation_batches=1,
            log_interval=self.log_interval,
            validation_interval=self.validation_interval,
            data=DataConfig(),
            optim=optim,
            loader=LoaderConfig(),
            checkpoint=CheckpointConfig(
                save_interval=self.save_interval,
                resume_from=None if resume_from is None else str(resume_from),
                keep_last_n=self.keep_last_n,
                publish_last_n=2,
                save_wandb_metadata=self.save_wandb_metadata,
                on_config_change=self.on_config_change,
                allow_other_devices=self.allow_other_devices,
            ),
            wandb=replace(WandbConfig(mode="disabled", project="tests"), **self.wandb),
            runtime=RuntimeConfig(),
        )

    def _batches(self, start_step: int, stop_step: int, whole: bool = False) -> Iterable[Batch]:
        """Yield the batches of some steps, each a function of its step."""
        self.before_first_update()
        for step in range(start_step, stop_step):
            values = rng.stream(3, "example", step).standard_normal((4, 6)).astype(np.float32)
            yield {"x": torch.from_numpy(values), "utterance": torch.arange(4) + step}


def content_of(path: Path) -> dict[str, Any]:
    """Return a checkpoint's entries by name."""
    return checkpoint.load(path)[0].as_dict()


def same(a: Any, b: Any) -> bool:
    """Return whether two values are the same, bit for bit where they are tensors."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(one, other) for one, other in zip(a, b, strict=True))
    return bool(a == b)


STATE = checkpoint.Checkpoint.entries(checkpoint.STATE)


def differences(a: Path, b: Path, entries: tuple[str, ...] = STATE) -> list[str]:
    """Return which entries of two checkpoints differ."""
    one, other = content_of(a), content_of(b)
    return [entry for entry in entries if not same(one[entry], other[entry])]


def rewrite(path: Path, change: Callable[[dict[str, Any]], None], target: Path | None = None) -> Path:
    """Change a checkpoint's content, drop its JSON, and return its path."""
    content = torch.load(path, weights_only=True)
    change(content)
    target = target or path
    torch.save(content, target)
    json_path(target).unlink(missing_ok=True)
    return target
