"""The loop says where training waits for data, and trains on while a checkpoint is written."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_run import Tiny, TinyRecipe

from miipher2.training import checkpoint
from miipher2.training.checkpoint import digest_of, load
from miipher2.training.recipe import Batch


@dataclass
class Clocked(Tiny):
    """A run on a clock that moves by the wait for each batch and by a second for each update."""

    seconds: list[float] = field(default_factory=lambda: [0.0])
    wait_seconds: float = 0.0

    def _batches(self, start_step: int, stop_step: int, whole: bool = False) -> Iterable[Batch]:
        def wait() -> Iterator[Batch]:
            for step, batch in enumerate(super(Clocked, self)._batches(start_step, stop_step, whole), start_step):
                self.seconds[0] += 1_000.0 if step == start_step else self.wait_seconds  # workers start
                yield batch

        return wait()


@pytest.mark.parametrize(("wait_seconds", "percent"), [(1.5, 60), (0.2, None)])
def test_waiting_for_data_is_said_once(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    wait_seconds: float,
    percent: int | None,
) -> None:
    run = Clocked(tmp_path / "run", steps=150, log_interval=50, validation_interval=150, save_interval=150)
    run.wait_seconds = wait_seconds

    def make_recipe() -> TinyRecipe:
        recipe = TinyRecipe()
        recipe.between = lambda step: run.seconds.__setitem__(0, run.seconds[0] + 1.0)
        return recipe

    run.make_recipe = make_recipe
    monkeypatch.setattr("miipher2.training.loop.time", SimpleNamespace(monotonic=lambda: run.seconds[0]))
    run()
    said = [record.getMessage() for record in caplog.records if "Data wait" in record.getMessage()]
    assert said == ([] if percent is None else [f"Data wait {percent} %: add workers (loader.num_workers)"])


def slow_save(monkeypatch: pytest.MonkeyPatch, is_later: Event) -> None:
    """Let every checkpoint be written only once the event is set."""
    save = checkpoint.save

    def wait(*arguments: Any) -> Path:
        assert is_later.wait(60)
        return save(*arguments)

    monkeypatch.setattr(checkpoint, "save", wait)


def test_training_goes_on_while_a_checkpoint_is_written_and_does_not_change_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Tiny(tmp_path / "at_once")()
    is_later = Event()
    slow_save(monkeypatch, is_later)

    def make_recipe() -> TinyRecipe:
        recipe = TinyRecipe()
        recipe.between = lambda step: is_later.set() if step == 7 else None  # the last update before the next save
        return recipe

    Tiny(tmp_path / "late", make_recipe=make_recipe)()
    for step in (4, 8, 12):
        at_once, late = (load(tmp_path / name / f"checkpoint_{step}.pt")[0].as_dict() for name in ("at_once", "late"))
        for entry in ("step", "model", "optimizers", "schedules", "ema", "rng", "history", "best"):
            assert digest_of(late[entry]) == digest_of(at_once[entry]), (step, entry)


def test_a_checkpoint_that_cannot_be_written_stops_training_at_the_next_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_later, seen = Event(), list[int]()

    def fail(*arguments: Any) -> Path:
        is_later.set()
        raise OSError(28, "no room")

    monkeypatch.setattr(checkpoint, "save", fail)

    def between(step: int) -> None:
        seen.append(step)
        if step == 5:
            assert is_later.wait(60)

    def make_recipe() -> TinyRecipe:
        recipe = TinyRecipe()
        recipe.between = between
        return recipe

    with pytest.raises(OSError, match="no room"):
        Tiny(tmp_path / "run", steps=10_000, save_interval=4, make_recipe=make_recipe)()
    assert len(seen) < 9, seen
