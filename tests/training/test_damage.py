"""Every value in a checkpoint matters: a plausible wrong one is refused, reported, or changes the rest of the run."""

import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import STATE, Tiny, content_of, rewrite, same

from miipher2 import rng
from miipher2.training.checkpoint import DESCRIPTION, Checkpoint, CheckpointError

# What no later update reads, and why a checkpoint holds it.
CARRIED = {
    "run_id": "names the run; decides which files of the folder are its own",
    "parents": "names the checkpoints that the run went through",
    "wandb": "names the W&B run to go on with",
    "history": "the rows so far, which history.csv continues",
    "best": "the best validation so far; only a better one replaces it",
    "ema.module.2.num_batches_tracked": "PyTorch's count of a layer's batches; the average is never in training mode",
}
STEP = 3  # after an odd number of draws, so that Python and NumPy hold the second normal number of a pair


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that was never stopped; not to be written to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    Tiny(folder, save_interval=STEP)()
    return folder


def other_generators() -> dict[str, Any]:
    """Return the generators of another seed, after as many draws."""
    with rng.guarded():
        rng.seed_all(77)
        random.gauss(0, 1), np.random.standard_normal()  # noqa: NPY002 - each keeps the second of a pair
        return rng.get_state()


def leaves(value: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """Yield the paths of all values."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, *path, key)
    else:
        yield path


def wrong(value: Any, path: tuple[str, ...]) -> Any:
    """Return a plausible wrong value: one element of a tensor changed, a count one further, another seed's state."""
    if path[0] == "rng" and path[-1] in ("internal", "keys", "torch"):
        other: Any = other_generators()
        for name in path[2:]:
            other = other[name]
        return other
    if isinstance(value, torch.Tensor):
        changed = value.clone()
        changed.view(-1)[0] += 1 if not value.is_floating_point() or path[-1] == "step" else 0.01
        return changed
    if isinstance(value, str):
        return value[:-2] + ("1" if value[-2:-1] != "1" else "2") + value[-1:]
    if isinstance(value, list):
        return [*value, value[0] if value else torch.get_rng_state() if path[-1] == "cuda" else {"step": 1}]
    if value is None or isinstance(value, dict):
        return {"other": "1"}
    return 1 - value if path[-1] == "has_gauss" else value + 1


def all_leaves() -> list[tuple[str, ...]]:
    """Return the paths of everything in the tiny run's checkpoint."""
    recipe = Tiny(Path()).make_recipe()
    for step in range(2):
        recipe.update({"x": torch.randn(4, 6)}, step)
    state = {**recipe.state_dict(), "rng": {"0": rng.get_state()}}
    best = {"best": dict.fromkeys(("metric", "value", "step"))}
    return [path for name in Checkpoint.entries() for path in leaves({**state, **best}.get(name), name)]


def results(folder: Path, path: tuple[str, ...]) -> tuple[dict[str, Any], bytes, bytes]:
    """Return a run's last state without the damaged value, its history and its weights."""
    content = {name: value for name, value in content_of(folder / "checkpoint_12.pt").items() if name in STATE}
    part: Any = content
    for name in path[:-1]:
        part = part.get(name, {})
    part.pop(path[-1], None)
    if path[0] == "history":
        return content, b"", b""
    return content, (folder / "history.csv").read_bytes(), (folder / "published/final.safetensors").read_bytes()


@pytest.mark.parametrize("path", all_leaves(), ids=".".join)
def test_a_wrong_value_is_refused_or_reported_or_changes_the_rest_of_the_run(
    tmp_path: Path, whole: Path, path: tuple[str, ...], caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    monkeypatch.setattr(logging.getLogger("miipher2"), "propagate", True)

    def damage(content: dict[str, Any]) -> None:
        part: Any = content
        for name in path[:-1]:
            part = part[name]
        before, part[path[-1]] = part[path[-1]], wrong(part[path[-1]], path)
        assert not same(before, part[path[-1]])

    file = rewrite(whole / f"checkpoint_{STEP}.pt", damage, tmp_path / f"checkpoint_{STEP}.pt")
    try:
        Tiny(tmp_path / "run", save_interval=STEP)(file)
    except CheckpointError:
        assert not (tmp_path / "run").exists()
        return
    ours, theirs = results(tmp_path / "run", path), results(whole, path)
    is_seen = not same(ours, theirs)
    if path[0] in Checkpoint.entries(DESCRIPTION):
        is_seen |= "Configuration changes detected" in caplog.text
    assert is_seen != (".".join(path) in CARRIED or path[0] in CARRIED), CARRIED.get(path[0], "")
