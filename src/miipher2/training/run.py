"""One lineage of checkpoints: where it starts, what a checkpoint of it holds, and how it goes on."""

import hashlib
import logging
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from miipher2 import rng
from miipher2.training import checkpoint, drift, ranks
from miipher2.training.folder import Parent
from miipher2.training.recipe import Recipe

log = logging.getLogger(__name__)


@dataclass
class Run:
    """What stays the same through a chain of resumes, and where this process entered it.

    Args:
        config: the resolved configuration of the stage, as plain values.
        data_sha256: digest of the data manifest.
        sources: digests of the frozen weights that the run uses, by name; `encoder` must not change.
        environment: what the bits depend on besides: versions, device, threads.
        about: what the JSON tells people beyond that (code version); never compared.
        parents: the checkpoints that the run was resumed from, oldest first, as {path, step, sha256}.
        parent: the last of them as a file, where this process resumed.
        resumed: the content of the checkpoint to go on from, or None.
    """

    stage: str
    folder: Path
    config: dict[str, Any]
    data_sha256: str
    sources: dict[str, str]
    environment: dict[str, str]
    about: dict[str, Any] = field(default_factory=dict)
    run_id: str = ""
    start_step: int = 0
    parents: list[dict[str, Any]] = field(default_factory=list)
    parent: Parent | None = None
    resumed: dict[str, Any] | None = None

    def begin(self, resume_from: str | None, path: Path | None, on_config_change: str) -> None:
        """Start fresh, or read the checkpoint and compare it with this run; touch nothing on the disk.

        Raises:
            CheckpointError: the checkpoint is damaged or cannot fit.
            ConfigChangedError: the configuration changed and `on_config_change` is `error`.
        """
        if resume_from is None or path is None:
            log.info("Starting fresh training (no checkpoint specified)")
            self.run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
            return
        log.info("Resuming from explicitly specified checkpoint: %s", resume_from)
        content, sha256 = checkpoint.load(path, stage=self.stage)
        self._compare(path, content, on_config_change)
        self.resumed = content
        self.run_id = content["run_id"]
        self.start_step = content["step"]
        self.parents = [*content["parents"], {"path": str(resume_from), "step": self.start_step, "sha256": sha256}]
        self.parent = Parent(path.resolve(), self.start_step, sha256, self.run_id)
        log.info("Resuming from step %d", self.start_step)

    def restore(self, recipe: Recipe) -> None:
        """Put the checkpoint's state into fresh objects; the global generators are left for `restore_chance`.

        Raises:
            CheckpointError: an entry is missing or does not fit, of the generators' too; names both sides.
        """
        assert self.resumed is not None
        assert self.parent is not None
        state = {entry: self.resumed.pop(entry) for entry in ("model", "optimizers", "schedules", "ema")}
        try:
            for chance in self._chance():
                rng.check_global(chance)
            fresh = recipe.state_dict()
            _check_tensors(state["model"], fresh["model"])
            if bool(state["ema"]) != bool(fresh["ema"]):
                raise ValueError("only one of checkpoint and run keeps a moving average (ema_decay)")
            _check_tensors(state["ema"], fresh["ema"])
            recipe.load_state_dict(state)
        except (ValueError, LookupError, RuntimeError, TypeError, AttributeError) as error:
            raise checkpoint.CheckpointError(f"{self.parent.path}: does not fit this run: {error}") from error
        log.info("Restored model, optimizer, and scheduler states")

    def restore_chance(self) -> None:
        """Put the global generators back, last of all; a rank that has no past gets its own chance."""
        if ranks.rank():
            rng.seed_global(int(rng.stream(self.config["seed"], "rank", ranks.rank(), self.start_step).integers(2**32)))
        for chance in self._chance():
            rng.restore_global(chance)

    def _chance(self) -> list[dict[str, Any]]:
        """Return this rank's generators in the checkpoint, if any: a resume may have more ranks than there were.

        Raises:
            KeyError: the checkpoint was written by so many ranks and lacks this one's.
        """
        if self.resumed is None:
            return []
        known, own = self.resumed["rng"], str(ranks.rank())
        wrote = int(self.resumed["environment"].get("ranks", 1))
        if missing := [str(one) for one in range(wrote) if str(one) not in known]:
            raise KeyError(f"the RNG states lack those of rank {missing[0]}, of {wrote} that wrote it")
        return [known[own]] if own in known else []

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
        """Save everything that the run's future depends on; `chance` holds every rank's generators."""
        state = recipe.state_dict()
        content = {
            "format": checkpoint.FORMAT,
            "stage": self.stage,
            "step": step,
            "run_id": self.run_id,
            **{entry: state[entry] for entry in ("model", "optimizers", "schedules", "ema")},
            "rng": {str(rank): one for rank, one in enumerate(chance)},
            "config": self.config,
            "wandb": wandb,
            "parents": self.parents,
            "history": history,
            "best": best,
            "sources": self.sources,
            "data_sha256": self.data_sha256,
            "environment": self.environment,
        }
        plain = ("format", "stage", "step", "run_id", "config", "wandb", "parents", "best", "sources", "data_sha256")
        summary = {
            **{entry: content[entry] for entry in plain},
            "environment": self.environment,
            **self.about,
            "schedules": state["schedules"],
            "trained_parameters": sum(tensor.numel() for tensor in state["model"].values()),
            "rng_sha256": {
                str(rank): {name: digest_of(value) for name, value in one.items()} for rank, one in enumerate(chance)
            },
            "saved_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        return checkpoint.save(self.folder, content, summary)

    def _compare(self, path: Path, content: dict[str, Any], on_config_change: str) -> None:
        old = {**content["config"], **{name: content[name] for name in ("data_sha256", "sources", "environment")}}
        new = {**self.config, "data_sha256": self.data_sha256, "sources": self.sources, "environment": self.environment}
        changed = drift.changes(old, new)
        if changed and on_config_change == "error":
            raise drift.ConfigChangedError(
                drift.message(changed) + "\ncheckpoint.on_config_change=error stops here; nothing was touched"
            )
        if changed:
            log.warning(drift.message(changed))
        for key in drift.CANNOT_FIT:
            if key in changed:
                raise checkpoint.CheckpointError(f"{path}: {key} is {changed[key][0]}, this run has {changed[key][1]}")


def _check_tensors(found: dict[str, Any], wanted: dict[str, torch.Tensor]) -> None:
    """Check names, types and shapes of all tensors before any is taken over; torch would cast some in silence."""
    for name in sorted(found.keys() | wanted.keys()):
        here = "is missing" if name not in found else f"is {_kind(found[name])}"
        there = "has none" if name not in wanted else f"has {_kind(wanted[name])}"
        if here.removeprefix("is ") != there.removeprefix("has "):
            raise ValueError(f"{name} {here}, this run {there}")


def _kind(tensor: Any) -> str:
    if not isinstance(tensor, torch.Tensor):
        return f"a {type(tensor).__name__}"
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def digest_of(value: Any) -> str:
    """Return a digest of plain values and tensors, for people to compare."""
    return hashlib.sha256(_canonical(value)).hexdigest()


def _canonical(value: Any) -> bytes:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}{tuple(value.shape)}".encode() + value.detach().cpu().contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return b"{" + b",".join(str(key).encode() + b":" + _canonical(value[key]) for key in sorted(value)) + b"}"
    if isinstance(value, list | tuple):
        return b"[" + b",".join(_canonical(entry) for entry in value) + b"]"
    return repr(value).encode()
