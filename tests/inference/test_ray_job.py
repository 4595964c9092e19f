"""A folder job on a local Ray cluster, with an actor that is killed."""

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_weights import load, publish_all, wave

from miipher2.audio.io import read_audio, write_audio
from miipher2.audio.stream import Recording
from miipher2.inference.files import find_tasks

pytestmark = pytest.mark.slow


def make_restorer(root: str, kill_once: str | None = None) -> Any:
    """Return a restorer; the first process that sees the file `kill_once` is killed in the middle of its work."""
    from miipher2.inference.restorer import Restorer

    restorer = Restorer.from_published("adapter", "vocoder", root=root)
    if kill_once is not None:
        original, opened = restorer.open, []

        def open_or_die(source: Any) -> Any:
            opened.append(source)
            if len(opened) > 5 and Path(kill_once).exists():
                Path(kill_once).unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            return original(source)

        restorer.open = open_or_die  # type: ignore[method-assign]
    return restorer


def test_folder_is_restored_although_an_actor_is_killed(tmp_path: Path) -> None:
    import sys

    import ray
    import ray.cloudpickle

    from miipher2.inference.ray_job import run_on_ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    publish_all(tmp_path, "hubert")
    (tmp_path / "in/deep").mkdir(parents=True)
    for number in range(20):
        write_audio(tmp_path / f"in/deep/{number}.wav", wave(8_000, str(number)), 16_000)
    (tmp_path / "in/bad.wav").write_bytes(b"not audio")
    (tmp_path / "kill_once").touch()
    tasks = find_tasks(tmp_path / "in", tmp_path / "out")
    done: list[str] = []
    settings: dict[str, Any] = {
        "address": "local",
        "actors": 1,
        "workers": 1,
        "uses_gpu": False,
        "on_progress": lambda task, share, seconds: done.append(task.name),
    }
    make = partial(make_restorer, str(tmp_path), str(tmp_path / "kill_once"))
    outcome = run_on_ray(tasks, tmp_path / "out", make_restorer=make, **settings)
    assert not (tmp_path / "kill_once").exists()  # an actor was killed
    assert len(outcome.restored) + len(outcome.skipped) == 20
    assert [task.name for task, _ in outcome.failed] == ["bad.wav"]
    assert len(done) == 21
    restorer = load(tmp_path)
    for task in tasks:
        if task.name != "bad.wav":
            expected = restorer(read_audio(task.source)[0], 16_000)
            restored = np.concatenate(list(Recording(task.target).blocks()), 1)[0]
            np.testing.assert_allclose(restored, expected, atol=2**-14)
    again = run_on_ray(tasks, tmp_path / "out", make_restorer=partial(make_restorer, str(tmp_path)), **settings)
    assert (len(again.restored), len(again.skipped), len(again.failed)) == (0, 20, 1)
