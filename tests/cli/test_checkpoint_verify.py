"""`miipher2 checkpoint verify`: intact files and damaged ones."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoints import Command, flip, make_checkpoint, write

from miipher2.training.summary import json_path


def edit_json(path: Path, **changed: Any) -> None:
    beside = json_path(path)
    beside.write_text(json.dumps(json.loads(beside.read_text()) | changed))


def put_pickle(path: Path) -> None:
    json_path(path).unlink()
    path.write_bytes(pickle.dumps({"format": 1}))


DAMAGE = {
    "a flipped bit": (flip, "sha256"),
    "a cut": (lambda path: path.write_bytes(path.read_bytes()[:-7]), "sha256"),
    "a pickle": (put_pickle, "not a checkpoint"),
    "another digest": (lambda path: edit_json(path, sha256="0" * 64), "sha256"),
    "another step in the JSON": (lambda path: edit_json(path, step=7), "step differs"),
    "another configuration in the JSON": (lambda path: edit_json(path, config={}), "config differs"),
    "a broken JSON": (lambda path: json_path(path).write_text("{"), "damaged"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_verify_finds_a_damaged_file_among_intact_ones(kind: str, tmp_path: Path, miipher2: Command) -> None:
    damage, message = DAMAGE[kind]
    intact = [write(tmp_path / "a", make_checkpoint(step)) for step in (1, 3)]
    damaged = write(tmp_path / "a", make_checkpoint(2))
    assert miipher2("checkpoint", "verify", tmp_path).code == 0
    damage(damaged)
    result = miipher2("checkpoint", "verify", tmp_path)
    assert result.code == 1
    assert [f"ok      {path}" for path in intact] == [line for line in result.out.splitlines() if line.startswith("ok")]
    (failed,) = [line for line in result.out.splitlines() if line.startswith("FAILED")]
    assert str(damaged.with_suffix("")) in failed
    assert message in failed
    assert result.out.splitlines()[-1] == "3 checked, 1 failed"
    results = json.loads(miipher2("checkpoint", "verify", "--json", tmp_path).out)
    assert [result["ok"] for result in results] == [True, False, True]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rng": {"0": {"python": {}, "numpy": {}, "torch": torch.zeros(1)}}}, "cuda"),
        ({"model": {"weight": torch.tensor([1.0, float("nan")])}}, "'weight'"),
    ],
)
def test_verify_finds_missing_generators_and_values_that_are_not_finite(
    changed: dict[str, Any], message: str, tmp_path: Path, miipher2: Command
) -> None:
    result = miipher2("checkpoint", "verify", write(tmp_path, make_checkpoint(1, **changed)))
    assert result.code == 1
    assert message in result.out


def test_verify_finds_a_file_named_for_another_step(tmp_path: Path, miipher2: Command) -> None:
    path = write(tmp_path, make_checkpoint(1))
    for file in (path, json_path(path)):
        file.rename(file.with_stem("checkpoint_9"))
    result = miipher2("checkpoint", "verify", path.with_stem("checkpoint_9"))
    assert result.code == 1
    assert "its name says 9" in result.out
