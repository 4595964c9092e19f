"""A run: one lineage of checkpoints, where this process joined it, and how its state is restored and saved."""

import logging
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from miipher2 import rng
from miipher2.training import checkpoint, distributed
from miipher2.training.checkpoint import Checkpoint, CheckpointError
from miipher2.training.config_diff import INCOMPATIBLE, ConfigChangedError, diff_configs, format_diff
from miipher2.training.history import Chain
from miipher2.training.recipe import Recipe
from miipher2.training.run_dir import Parent

log = logging.getLogger(__name__)

RECIPE_STATE = ("model", "optimizers", "schedules", "ema")


@dataclass
class Run:
    """What stays the same through a chain of resumes, and where this process joined.

    Args:
        config: the stage's configuration as plain values.
        data_sha256: digest of the prepared data.
        upstream_digests: digests of the weights that the stage was given, by name; `encoder` must not change.
        environment: what the bits depend on besides: versions, device, threads.
        about: what only the JSON records (code version); never compared.
        parent: the checkpoint that this process resumed from, as a file.
        resumed: its content, or None on a fresh start.
    """

    stage: str
    folder: Path
    config: dict[str, Any]
    data_sha256: str
    upstream_digests: dict[str, str]
    environment: dict[str, str]
    about: dict[str, Any] = field(default_factory=dict)
    run_id: str = ""
    start_step: int = 0
    parents: list[dict[str, Any]] = field(default_factory=list)
    parent: Parent | None = None
    resumed: Checkpoint | None = None
    chain: Chain = field(default_factory=Chain)
    is_on_other_devices: bool = False  # than the checkpoint, and allowed to be

    def start(
        self, resume_from: str | None, path: Path | None, on_config_change: str, allow_other_devices: bool = False
    ) -> None:
        """Start fresh, or read the checkpoint and compare it with this run; nothing on disk is touched.

        Raises:
            CheckpointError: the checkpoint is damaged or cannot fit.
            ConfigChangedError: the configuration changed and `on_config_change` is `error`.
        """
        if resume_from is None or path is None:
            log.info("Starting fresh training (no checkpoint specified)")
            self.run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
            return
        log.info("Resuming from explicitly specified checkpoint: %s", resume_from)
        resumed, sha256 = checkpoint.load(path, stage=self.stage)
        self._compare(path, resumed, on_config_change)
        self.resumed, self.run_id, self.start_step = resumed, resumed.run_id, resumed.step
        parent = {"path": str(resume_from), "step": self.start_step, "sha256": sha256}
        before, now = (_devices(environment) for environment in (resumed.environment, self.environment))
        if allow_other_devices and before != now:
            self.is_on_other_devices = True
            parent["other_devices"] = f"{before} -> {now}"
            log.warning("Resuming on other devices: %s -> %s. The bits of this run are not promised.", before, now)
        self.parents = [*resumed.parents, parent]
        self.chain = Chain.of(path, sha256, self.start_step)
        self.parent = Parent(path.resolve(), self.start_step, sha256, self.run_id)
        log.info("Resuming from step %d", self.start_step)

    def restore(self, recipe: Recipe) -> None:
        """Load the checkpoint's state into a fresh recipe; the global generators wait for `restore_rng`.

        Raises:
            CheckpointError: an entry is missing or does not fit, including the generators'; names both sides.
        """
        assert self.resumed is not None
        assert self.parent is not None
        state = {name: getattr(self.resumed, name) for name in RECIPE_STATE}
        try:
            rng_state = self._rng_state()
            if rng_state is not None:
                rng.check_state(rng_state)
            fresh = recipe.state_dict()
            _check_tensors(state["model"], fresh["model"])
            if bool(state["ema"]) != bool(fresh["ema"]):
                raise ValueError("either the checkpoint or this run has an EMA (ema_decay), and the other has none")
            _check_tensors(state["ema"], fresh["ema"])
            recipe.load_state_dict(state)
        except (ValueError, LookupError, RuntimeError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())  # torch lists tensors on lines of their own
            raise CheckpointError(f"{self.parent.path}: does not fit this run: {reason}") from error
        for name in RECIPE_STATE:  # loaded, and as large as the model
            setattr(self.resumed, name, {})
        log.info("Restored model, optimizer, and scheduler states")

    def restore_rng(self) -> None:
        """Restore the global generators, last of all; a rank or device that is new in this resume is seeded anew."""
        if (rank := distributed.rank()) or self.is_on_other_devices:
            rng.seed_all(int(rng.stream(self.config["seed"], "rank", rank, self.start_step).integers(2**32)))
        if (state := self._rng_state()) is not None:
            rng.set_state(state)

    def save(
        self,
        state: dict[str, Any],
        step: int,
        *,
        rng_states: list[dict[str, Any]],
        history: str,
        best: dict[str, Any] | None,
        wandb: dict[str, str] | None,
        batches_sha256: str,
    ) -> Path:
        """Save everything that the run's future depends on.

        Args:
            state: the recipe's.
            rng_states: one entry for each rank.
            batches_sha256: digest of the utterances of all batches since the last save.
        """
        code_sha256 = self.about.get("code", {}).get("sha256")
        link = self.chain.next(
            step, batches_sha256=batches_sha256, data_sha256=self.data_sha256, code_sha256=code_sha256
        )
        saved = checkpoint.save(
            self.folder,
            Checkpoint(
                stage=self.stage,
                step=step,
                run_id=self.run_id,
                **{name: state[name] for name in RECIPE_STATE},
                rng={str(rank): one for rank, one in enumerate(rng_states)},
                config=self.config,
                wandb=wandb,
                parents=self.parents,
                history=history,
                best=best,
                upstream_digests=self.upstream_digests,
                data_sha256=self.data_sha256,
                environment=self.environment,
            ),
            {**self.about, **link},
        )
        self.chain.append(saved)
        return saved

    def is_due(self, step: int, save_interval: int) -> bool:
        """Return whether a checkpoint should be saved after a step."""
        return step % save_interval == 0

    def _rng_state(self) -> dict[str, Any] | None:
        """Return this rank's generators in the checkpoint; None on a fresh start, and for a rank that is new.

        Raises:
            KeyError: the checkpoint lacks the generators of a rank that it was written by.
        """
        if self.resumed is None:
            return None
        states = self.resumed.rng
        world_size = int(self.resumed.environment.get("world_size", 1))
        if missing := [str(rank) for rank in range(world_size) if str(rank) not in states]:
            raise KeyError(f"the RNG states lack those of rank {missing[0]} of {world_size}")
        state = states.get(str(distributed.rank()))
        if state is None or "cuda" not in state:
            return state
        saved, own = state["cuda"], rng.get_state()["cuda"]
        if len(saved) > 1 and own:  # an older file holds the generator of every device that was visible
            named = str(self.resumed.config.get("runtime", {}).get("device")).partition(":")[2]
            saved = [saved[int(named or torch.cuda.current_device())]]
        return {**state, "cuda": own if self.is_on_other_devices and len(saved) != len(own) else saved}

    def _compare(self, path: Path, resumed: Checkpoint, on_config_change: str) -> None:
        def comparable(source: Any) -> dict[str, Any]:
            names = ("data_sha256", "upstream_digests", "environment")
            return {**source.config, **{name: getattr(source, name) for name in names}}

        changed = diff_configs(comparable(resumed), comparable(self))
        if changed and on_config_change == "error":
            raise ConfigChangedError(
                format_diff(changed) + "\ncheckpoint.on_config_change=error stops here; nothing was touched"
            )
        if changed:
            log.warning(format_diff(changed))
        for key in INCOMPATIBLE:
            if key in changed:
                raise CheckpointError(f"{path}: {key} is {changed[key][0]}, this run has {changed[key][1]}")


def _devices(environment: dict[str, Any]) -> str:
    """Return on what a run was trained, such as `2 x NVIDIA H200`."""
    return f"{environment.get('world_size', 1)} x {environment.get('device')}"


def _check_tensors(found: dict[str, Any], expected: dict[str, torch.Tensor]) -> None:
    """Check names, types and shapes of all tensors before any is loaded; torch would cast some of them silently."""
    for name in sorted(found.keys() | expected.keys()):
        here = "is missing" if name not in found else f"is {_describe(found[name])}"
        there = "has none" if name not in expected else f"has {_describe(expected[name])}"
        if here.removeprefix("is ") != there.removeprefix("has "):
            raise ValueError(f"{name} {here}, this run {there}")


def _describe(tensor: Any) -> str:
    if not isinstance(tensor, torch.Tensor):
        return f"a {type(tensor).__name__}"
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
