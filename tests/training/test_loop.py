"""The loop says where training waits for data."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_run import Tiny, TinyRecipe

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
