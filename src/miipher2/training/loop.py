"""The one loop: it owns time, and knows steps and not speech."""

import logging
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miipher2 import rng
from miipher2.training import folder as run_folder
from miipher2.training import ranks
from miipher2.training.finite import NonFiniteError
from miipher2.training.recipe import Batch, Metrics, Recipe, Tracker
from miipher2.training.run import Run
from miipher2.training.signals import Interrupted, stop_request

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """When things happen, all in steps; `best_metric` is the validation metric whose lowest value is remembered."""

    steps: int
    log_interval: int
    validation_interval: int
    save_interval: int
    keep_last_n: int
    best_metric: str


def train(
    recipe: Recipe,
    run: Run,
    plan: Plan,
    *,
    batches: Callable[[int, int], Iterable[Batch]],
    validation: Callable[[], Iterable[Batch]],
    tracker: Tracker,
    resume_command: Callable[[str], str],
    present: Callable[[int], None] = lambda step: None,
) -> dict[str, float]:
    """Train from the run's start to `plan.steps` and return the metrics of a last validation.

    Args:
        batches: gives this rank's share of the batches of the steps [from, to), a pure function of the step.
        validation: gives this rank's share of the fixed validation batches.
        resume_command: gives the command that goes on from a checkpoint, to be shown where a signal stops the run.
        present: called after each validation on the way, with the step; what it draws is put back.

    Raises:
        Interrupted: a signal stopped it; a checkpoint was saved.
        NonFiniteError: a loss or gradient is not finite; names the step and the batch.
    """
    best: dict[str, Any] | None = None if run.resumed is None else run.resumed["best"]
    step = run.start_step
    recent: dict[int, Batch] = {}
    with stop_request() as stop, _naming_the_batch(recent):
        for batch in batches(step, plan.steps):
            recent[step] = batch
            recent.pop(step - 2, None)
            metrics = recipe.update(batch, step)
            step += 1
            best = _record(recipe, plan, step, metrics, best, validation, tracker, present)
            asked = ranks.largest(stop.signal_number or 0)  # a signal to one stops all, after the same update
            if asked or step == plan.steps or step % plan.save_interval == 0:
                saved = _save(recipe, run, plan, step, best, tracker)
            if asked and step < plan.steps:
                raise _interrupted(asked, str(saved), step, resume_command)
    with rng.guarded():
        return _validate(recipe, validation)


@contextmanager
def _naming_the_batch(recent: dict[int, Batch]) -> Iterator[None]:
    """Say which batch gave what is not finite: on CUDA that is known one step later."""
    try:
        yield
    except NonFiniteError as error:
        batch = recent.get(error.step, {})
        used = batch["utterance"].tolist() if "utterance" in batch else "unknown"
        text = f"{error}; batch {error.step} holds the utterances {used}; nothing was saved since"
        raise NonFiniteError(text, error.step) from None


def _save(
    recipe: Recipe, run: Run, plan: Plan, step: int, best: dict[str, Any] | None, tracker: Tracker
) -> Path | None:
    """Save and rotate; rank 0 does it, and the others wait, since what ends them may end it too."""
    chance = ranks.gather(rng.global_state())
    saved = None
    if ranks.rank() == 0:
        saved = run.save(recipe, step, chance=chance, history=tracker.history(), best=best, wandb=tracker.identity())
        log.info("Saved %s", saved)
        run_folder.rotate(run.folder, run_id=run.run_id, keep_last_n=plan.keep_last_n, parent=run.parent)
    ranks.wait()
    return saved


def _record(
    recipe: Recipe,
    plan: Plan,
    step: int,
    metrics: Metrics,
    best: dict[str, Any] | None,
    validation: Callable[[], Iterable[Batch]],
    tracker: Tracker,
    present: Callable[[int], None],
) -> dict[str, Any] | None:
    """Log and validate where the step is due, and return the best validation so far; draw nothing."""
    row: dict[str, float] = {}
    if step % plan.log_interval == 0:
        row.update(ranks.mean_metrics({name: float(value) for name, value in metrics.items()}))
    with rng.guarded():
        if step % plan.validation_interval == 0:
            validated = _validate(recipe, validation)
            row.update(validated)
            value = validated[plan.best_metric]
            if best is None or value < best["value"]:
                best = {"metric": plan.best_metric, "value": value, "step": step}
        tracker.log(step, row)
        if step % plan.validation_interval == 0:
            present(step)
    return best


def _validate(recipe: Recipe, validation: Callable[[], Iterable[Batch]]) -> dict[str, float]:
    """Return the mean of each validation metric over all ranks' batches, in the order of the batches."""
    own = [{name: float(value) for name, value in recipe.validate(batch).items()} for batch in validation()]
    results = [result for each in ranks.gather(own) for result in each]
    return {name: sum(result[name] for result in results) / len(results) for name in results[0]}


def _interrupted(asked: int, saved: str, step: int, resume_command: Callable[[str], str]) -> Interrupted:
    number = signal.Signals(asked)
    if ranks.rank():
        return Interrupted(128 + number)
    log.warning("Stopped by %s after step %d. Go on with:\n  %s", number.name, step, resume_command(saved))
    return Interrupted(128 + number)
