"""SIGTERM and SIGINT finish the update, save, and print the command that resumes; a second signal ends at once."""

import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_run import Tiny, TinyRecipe, differences

from miipher2.training.checkpoint import load
from miipher2.training.signals import Interrupted, stop_request
from miipher2.training.summary import list_checkpoints


def recipe_with_signal(step: int, send: Callable[[], None]) -> Callable[[], TinyRecipe]:
    """Return a factory of recipes that call `send` in the middle of an update."""

    def make() -> TinyRecipe:
        recipe = TinyRecipe()
        recipe.between = lambda now: send() if now == step else None
        return recipe

    return make


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_after_the_update_and_prints_the_command(
    tmp_path: Path, caplog: Any, monkeypatch: Any, number: signal.Signals, code: int
) -> None:
    monkeypatch.setattr(logging.getLogger("miipher2"), "propagate", True)
    folder = tmp_path / "run"
    handlers = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Interrupted) as caught:
        Tiny(folder, make_recipe=recipe_with_signal(5, lambda: os.kill(os.getpid(), number)))()
    assert caught.value.code == code
    saved = folder / "checkpoint_6.pt"
    assert f"Stopped by {number.name} after step 6. Resume with:\n  resume from {saved}" in caplog.text
    assert [step for step, _ in list_checkpoints(folder)] == [4, 6]
    assert not (folder / "published").exists()
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == handlers
    Tiny(folder)(saved)
    Tiny(tmp_path / "whole")()
    assert differences(folder / "checkpoint_12.pt", tmp_path / "whole/checkpoint_12.pt") == []


def test_a_signal_at_the_last_update_finishes_the_run(tmp_path: Path) -> None:
    Tiny(tmp_path / "run", make_recipe=recipe_with_signal(11, lambda: os.kill(os.getpid(), signal.SIGTERM)))()
    assert (tmp_path / "run/published/final.safetensors").exists()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(tmp_path: Path, second: signal.Signals) -> None:
    folder = tmp_path / "run"

    def send() -> None:
        while not (folder / "checkpoint_4.pt").exists():  # it is written in the background
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), second)
        time.sleep(20)

    pid = os.fork()
    if not pid:
        try:
            Tiny(folder, make_recipe=recipe_with_signal(5, send))()
        finally:
            os._exit(0)
    start = time.monotonic()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == -second
    assert time.monotonic() - start < 10
    assert [step for step, path in list_checkpoints(folder) if load(path)] == [4]


def test_a_signal_in_the_middle_of_a_save_waits_for_it(tmp_path: Path, monkeypatch: Any) -> None:
    """Training goes on during the save, so the signal stops it after the update that it then makes, or the next."""
    replace, updates, at_signal = os.replace, list[int](), list[int]()

    def make() -> TinyRecipe:
        recipe = TinyRecipe()
        recipe.between = updates.append
        return recipe

    def replace_after_signal(source: Any, target: Any, **more: Any) -> None:
        if Path(target).name == "checkpoint_4.pt":
            at_signal.append(len(updates))
            os.kill(os.getpid(), signal.SIGTERM)
        replace(source, target, **more)

    monkeypatch.setattr(os, "replace", replace_after_signal)
    with pytest.raises(Interrupted):
        Tiny(tmp_path / "run", make_recipe=make)()
    first, *_, last = [step for step, path in list_checkpoints(tmp_path / "run") if load(path)]
    assert first == 4
    assert last == len(updates)
    assert max(5, at_signal[0]) <= last <= at_signal[0] + 1


def test_signal_handlers_are_restored_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="x"), stop_request() as stop:  # noqa: PT012
        assert signal.getsignal(signal.SIGINT) != before
        assert not stop
        raise ValueError("x")
    assert signal.getsignal(signal.SIGINT) == before
