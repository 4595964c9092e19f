"""A run small enough to be repeated hundreds of times, in which every kind of state matters."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from miipher2.tracking.tracker import Tracker, start_wandb
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from miipher2 import atomic_io as durable
from miipher2 import rng
from miipher2.training import checkpoint
from miipher2.training import run_dir as run_folder
from miipher2.training.loop import Plan, train
from miipher2.training.optimizer import NetworkOptimizer
from miipher2.training.recipe import Batch, Metrics
from miipher2.training.run import Run
from miipher2.training.schedule import learning_rate

WANDB = {"mode": "disabled", "project": "tests", "entity": None, "name": None, "tags": [], "notes": None}
CONFIG = {
    "name": "tiny",
    "seed": 3,
    "batch_size": 4,
    "model": {"dim": 6, "layer": 4},
    "optim": {"lr": 0.05, "betas": [0.9, 0.99]},
    "wandb": WANDB,
}


class TinyRecipe:
    """Two players and a moving average; an update draws from the global generators of Python, NumPy and PyTorch."""

    metric_names = ("loss", "loss_d", "valid/loss")

    def __init__(self, dim: int = 6, ema: bool = True) -> None:
        self.sources = {"encoder": "0" * 64}
        self.model = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(0.3), nn.BatchNorm1d(dim))
        self.judge = nn.Linear(dim, 1)
        rate = partial(
            learning_rate, lr=0.05, name="cosine", warmup_steps=3, decay_steps=20, final_ratio=0.1, decay_per_step=1.0
        )
        make = partial(NetworkOptimizer, schedule=rate, weight_decay=0.01, betas=(0.9, 0.99), max_grad_norm=1.0)
        self.generator_optimizer = make("g", self.model.named_parameters())
        self.discriminator_optimizer = make("d", self.judge.named_parameters())
        self.average = (
            AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True) if ema else None
        )
        self.between: Callable[[int], None] = lambda step: None  # called between the two players' updates

    def initialise(self, batches: Iterable[Batch]) -> None:
        """Need nothing."""

    def update(self, batch: Batch, step: int) -> Metrics:
        """Move both players, with noise from every global generator."""
        noise = np.random.standard_normal(batch["x"].shape).astype(np.float32) * random.gauss(0, 0.1)  # noqa: NPY002
        fake = self.model(batch["x"] + torch.from_numpy(noise))
        loss_d = (self.judge(fake.detach()) - 1).square().mean() + self.judge(batch["x"]).square().mean()
        self.discriminator_optimizer.minimize(loss_d, step)
        self.between(step)
        loss_g = self.judge(fake).square().mean() + (fake - batch["x"]).abs().mean() + 0.01 * torch.rand(())
        self.generator_optimizer.minimize(loss_g, step)
        if self.average is not None:
            self.average.update_parameters(self.model)
        return {"loss": loss_g.detach(), "loss_d": loss_d.detach()}

    def validate(self, batch: Batch) -> Metrics:
        """Draw from every global generator, as somebody's metric might."""
        random.random(), np.random.rand(3), torch.rand(5)  # noqa: NPY002
        weights = torch.cat([parameter.detach().flatten() for parameter in self.model.parameters()])
        return {"valid/loss": weights.square().mean() + batch["x"].mean()}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that `update` changes."""
        players = (self.generator_optimizer, self.discriminator_optimizer)
        return {
            "model": {**self._named(self.model, "g."), **self._named(self.judge, "d.")},
            "optimizers": {player.name: player.optimizer_state() for player in players},
            "schedules": {player.name: player.schedule_state() for player in players},
            "ema": {} if self.average is None else dict(self.average.state_dict()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over such a state."""
        for module, prefix in ((self.model, "g."), (self.judge, "d.")):
            own = {name[2:]: tensor for name, tensor in state["model"].items() if name.startswith(prefix)}
            module.load_state_dict(own)
        if self.average is not None:
            self.average.load_state_dict(state["ema"])
        for player in (self.generator_optimizer, self.discriminator_optimizer):
            player.load(state["optimizers"][player.name], state["schedules"][player.name])

    def export(self) -> dict[str, dict[str, Tensor]]:
        """Return the generator."""
        return {"final": dict(self.model.state_dict())}

    @staticmethod
    def _named(module: nn.Module, prefix: str) -> dict[str, Tensor]:
        return {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}


@dataclass
class Done:
    """What a run left behind."""

    run: Run
    recipe: TinyRecipe
    final: dict[str, float]
    aside: Path | None


@dataclass
class Tiny:
    """How to run it; the fields are what tests change."""

    folder: Path
    steps: int = 12
    log_interval: int = 1
    validation_interval: int = 3
    save_interval: int = 4
    keep_last_n: int = 500
    on_config_change: str = "warn"
    stage: str = "tiny"
    wandb: dict[str, Any] = field(default_factory=dict)
    save_wandb_metadata: bool = True
    config: dict[str, Any] = field(default_factory=lambda: CONFIG)
    environment: dict[str, str] = field(default_factory=lambda: {"threads": "1"})
    make_recipe: Callable[[], TinyRecipe] = TinyRecipe
    before_first_update: Callable[[], None] = lambda: None

    def __call__(self, resume_from: str | Path | None = None) -> Done:
        """Run to `steps`, in the order in which `miipher2.stage` does."""
        rng.seed_all(self.config["seed"])
        recipe = self.make_recipe()
        run = Run(
            stage=self.stage,
            folder=self.folder,
            config=self.config,
            data_sha256="d" * 64,
            sources=recipe.sources,
            environment=self.environment,
        )
        path = None if resume_from is None else Path(resume_from)
        run.begin(None if path is None else str(path), path, self.on_config_change)
        if run.resumed is not None:
            run.restore(recipe)
        with run_folder.held(self.folder):
            aside = run_folder.set_aside(self.folder, run.parent)
            durable.write_atomically(self.folder / "config.yaml", b"name: tiny\n")
            final = self._train(run, recipe)
            run_folder.publish(self.folder, run_id=run.run_id, publish_last_n=2, weights=recipe.export())
        return Done(run, recipe, final, aside)

    def _train(self, run: Run, recipe: TinyRecipe) -> dict[str, float]:
        known = run.resumed["wandb"] if run.resumed is not None and self.save_wandb_metadata else None
        wandb_run = start_wandb(self.folder, **{**WANDB, **self.wandb}, config=self.config, inherited=known)
        tracker = Tracker(
            self.folder,
            recipe.metric_names,
            start_step=run.start_step,
            steps=self.steps,
            history="" if run.resumed is None else run.resumed["history"],
            wandb_run=wandb_run,
            inherit_wandb=self.save_wandb_metadata,
        )
        plan = Plan(
            steps=self.steps,
            log_interval=self.log_interval,
            validation_interval=self.validation_interval,
            save_interval=self.save_interval,
            keep_last_n=self.keep_last_n,
            best_metric="valid/loss",
        )
        exit_code = 1
        try:
            run.restore_rng()
            self.before_first_update()
            final = train(
                recipe,
                run,
                plan,
                batches=batches,
                validation=lambda: [{"x": torch.ones(2, 6)}],
                tracker=tracker,
                resume_command=lambda path: f"go on from {path}",
            )
            exit_code = 0
        finally:
            tracker.close(exit_code)
        return final


def batches(start_step: int, stop_step: int) -> Iterable[Batch]:
    """Return the batches of some steps, each a function of its step."""
    for step in range(start_step, stop_step):
        drawn = rng.stream(3, "example", step).standard_normal((4, 6)).astype(np.float32)
        yield {"x": torch.from_numpy(drawn), "utterance": torch.arange(4) + step}


def content_of(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content."""
    return checkpoint.load(path)[0]


def same(a: Any, b: Any) -> bool:
    """Say whether two values are the same, bit for bit where they are tensors."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(one, other) for one, other in zip(a, b, strict=True))
    return bool(a == b)


STATE = ("step", "model", "optimizers", "schedules", "ema", "rng", "best", "history")


def differences(a: Path, b: Path, entries: tuple[str, ...] = STATE) -> list[str]:
    """Return which entries of two checkpoints differ."""
    one, other = content_of(a), content_of(b)
    return [entry for entry in entries if not same(one[entry], other[entry])]


def rewrite(path: Path, change: Callable[[dict[str, Any]], None], target: Path | None = None) -> Path:
    """Change a checkpoint's content, without its JSON, and return where it is."""
    content = torch.load(path, weights_only=True)
    change(content)
    target = target or path
    torch.save(content, target)
    checkpoint.summary_path(target).unlink(missing_ok=True)
    return target
