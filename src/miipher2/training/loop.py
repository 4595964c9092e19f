"""The one loop: it owns time, and knows steps but not speech."""

import hashlib
import itertools
import logging
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from miipher2 import rng
from miipher2.training import distributed, run_dir
from miipher2.training.checkpoint import copy_to_host
from miipher2.training.history import History
from miipher2.training.optimizer import NonFiniteError
from miipher2.training.recipe import Batch, Recipe
from miipher2.training.run import Run
from miipher2.training.signals import Interrupted, stop_request

log = logging.getLogger(__name__)

# Waiting for data is measured over some steps, once the workers have filled their queues.
WARM_UP_STEPS, MEASURED_STEPS, MUCH_WAITING = 20, 80, 0.25


@runtime_checkable
class MetricLogger(Protocol):
    """Where metrics are shown: a progress bar, W&B. Whatever it does changes no result."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Take the metrics of one step; most steps have none."""


@dataclass(frozen=True)
class LoopConfig:
    """How far and how often, all in steps; `best_metric` is the validation metric whose minimum is remembered."""

    steps: int
    log_interval: int
    validation_interval: int
    save_interval: int
    keep_last_n: int
    best_metric: str


@dataclass
class Loop:
    """Trains a recipe from its run's start to `config.steps`.

    Checkpoints are written in the background from a copy of the state, one at a time. One that cannot be written stops
    training at the next update.

    Args:
        batches: gives this rank's share of the batches of the steps [start, stop), a pure function of the step.
        validation: gives this rank's share of the fixed validation batches.
        wandb: identity of the W&B run (id, name, project), for the checkpoints.
        resume_command: gives the command that resumes from a checkpoint, printed when a signal stops the run.
        after_validation: called with the step after each validation; random numbers it draws are given back.
    """

    recipe: Recipe
    run: Run
    config: LoopConfig
    batches: Callable[[int, int], Iterable[Batch]]
    validation: Callable[[], Iterable[Batch]]
    history: History
    loggers: Sequence[MetricLogger] = ()
    wandb: dict[str, str] | None = None
    resume_command: Callable[[str], str] = str
    after_validation: Callable[[int], None] = lambda step: None
    best: dict[str, Any] | None = field(init=False)

    def __post_init__(self) -> None:
        self.best = None if self.run.resumed is None else self.run.resumed.best
        self._batches = hashlib.sha256()
        self._saving: Future[Path] | None = None

    def train(self) -> dict[str, float]:
        """Train, and return the metrics of a last validation.

        Raises:
            Interrupted: a signal stopped it; a checkpoint was saved.
            NonFiniteError: a loss or gradient is not finite; names the step and the batch.
        """
        config, step = self.config, self.run.start_step
        recent: dict[int, Batch] = {}
        with stop_request() as stop, _naming_the_batch(recent), ThreadPoolExecutor(1, "save") as self._writer:
            for batch in self._with_waits(self.batches(step, config.steps)):
                recent[step] = batch
                recent.pop(step - 2, None)
                metrics = self.recipe.update(batch, step)
                self._batches.update(f"{step}: {_utterances(batch)}\n".encode())
                step += 1
                self._log(step, metrics if step % config.log_interval == 0 else {})
                # A signal to one rank stops all of them, after the same update.
                signal_number = distributed.all_reduce_max(stop.signal_number or 0)
                is_last = bool(signal_number) or step == config.steps
                if is_last or self.run.is_due(step, config.save_interval):
                    self._save(step)
                if is_last or (self._saving is not None and self._saving.done()):
                    saved = self._finish_saving()
                if is_last:
                    distributed.barrier()  # what ends the other ranks may end rank 0 too
                if signal_number and step < config.steps:
                    raise self._interrupted(signal_number, saved, step)
        with rng.guarded():
            return self._validate()

    def _with_waits(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches; say once where training waits for them, after the workers have started."""
        waited, since, iterator = 0.0, time.monotonic(), iter(batches)
        for count in itertools.count():
            began = time.monotonic()
            if (batch := next(iterator, None)) is None:
                return
            waited += time.monotonic() - began
            if count == WARM_UP_STEPS:
                waited, since = 0.0, time.monotonic()
            elif count == WARM_UP_STEPS + MEASURED_STEPS:
                share = waited / max(1e-9, time.monotonic() - since)
                if share >= MUCH_WAITING:
                    log.warning("Data wait %.0f %%: add workers (loader.num_workers)", 100 * share)
            yield batch

    def _log(self, step: int, metrics: dict[str, Any]) -> None:
        """Log and validate where the step is due; any random numbers drawn here are given back."""
        row = distributed.mean_metrics({name: float(value) for name, value in metrics.items()})
        is_validated = step % self.config.validation_interval == 0
        with rng.guarded():
            if is_validated:
                validated = self._validate()
                row.update(validated)
                value = validated[self.config.best_metric]
                if self.best is None or value < self.best["value"]:
                    self.best = {"metric": self.config.best_metric, "value": value, "step": step}
            self.history.append(step, row)
            for logger in self.loggers:
                logger.log(step, row)
            if is_validated:
                self.after_validation(step)

    def _validate(self) -> dict[str, float]:
        """Return the mean of each validation metric over all ranks' batches, in the order of the batches."""
        own = [
            {name: float(value) for name, value in self.recipe.validate(batch).items()} for batch in self.validation()
        ]
        results = [result for each in distributed.all_gather(own) for result in each]
        return {name: sum(result[name] for result in results) / len(results) for name in results[0]}

    def _save(self, step: int) -> None:
        """Copy the state, and save it on rank 0 while training goes on; the save before is durable by then."""
        rng_states = distributed.all_gather(rng.get_state())
        batches = distributed.all_gather(self._batches.hexdigest())
        self._batches = hashlib.sha256()
        if distributed.rank():
            return
        self._finish_saving()
        self._saving = self._writer.submit(
            self._write,
            copy_to_host(self.recipe.state_dict()),
            step,
            rng_states=rng_states,
            history=self.history.text,
            best=self.best,
            wandb=self.wandb,
            batches_sha256=hashlib.sha256("".join(batches).encode()).hexdigest(),
        )

    def _write(self, state: dict[str, Any], step: int, **others: Any) -> Path:
        """Write the checkpoint, and remove those that rotation no longer keeps."""
        saved = self.run.save(state, step, **others)
        log.info("Saved %s", saved)
        run_dir.rotate(
            self.run.folder, run_id=self.run.run_id, keep_last_n=self.config.keep_last_n, parent=self.run.parent
        )
        return saved

    def _finish_saving(self) -> Path | None:
        """Wait until the checkpoint that is being written is durable, raise what failed, and return its path."""
        saving, self._saving = self._saving, None
        return None if saving is None else saving.result()

    def _interrupted(self, signal_number: int, saved: Path | None, step: int) -> Interrupted:
        name = signal.Signals(signal_number).name
        if saved is not None:
            log.warning("Stopped by %s after step %d. Resume with:\n  %s", name, step, self.resume_command(str(saved)))
        return Interrupted(128 + signal_number)


def _utterances(batch: Batch) -> list[int] | str:
    return batch["utterance"].tolist() if "utterance" in batch else "unknown"


@contextmanager
def _naming_the_batch(recent: dict[int, Batch]) -> Iterator[None]:
    """Add to a NonFiniteError which utterances were in its batch: on CUDA it is known one step later."""
    try:
        yield
    except NonFiniteError as error:
        batch = recent.get(error.step, {})
        text = f"{error}; batch {error.step} holds the utterances {_utterances(batch)}; nothing was saved since"
        raise NonFiniteError(text, error.step) from None
