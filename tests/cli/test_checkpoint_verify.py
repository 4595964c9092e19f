"""`miipher2 checkpoint verify`: whole files and spoilt ones."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoints import Command, content_of, flip, write

from miipher2.training.checkpoint import json_path


def edit_json(path: Path, **changed: Any) -> None:
    described = json_path(path)
    described.write_text(json.dumps(json.loads(described.read_text()) | changed))


def put_pickle(path: Path) -> None:
    json_path(path).unlink()
    path.write_bytes(pickle.dumps({"format": 1}))


SPOILT = {
    "a flipped bit": (flip, "sha256"),
    "a cut": (lambda path: path.write_bytes(path.read_bytes()[:-7]), "sha256"),
    "a pickle": (put_pickle, "not a checkpoint"),
    "another digest": (lambda path: edit_json(path, sha256="0" * 64), "sha256"),
    "another step in the JSON": (lambda path: edit_json(path, step=7), "step differs"),
    "another configuration in the JSON": (lambda path: edit_json(path, config={}), "config differs"),
    "a JSON that is none": (lambda path: json_path(path).write_text("{"), "damaged"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_verify_finds_a_spoilt_file_among_whole_ones(how: str, tmp_path: Path, miipher2: Command) -> None:
    spoil, named = SPOILT[how]
    whole = [write(tmp_path / "a", content_of(step)) for step in (1, 3)]
    spoilt = write(tmp_path / "a", content_of(2))
    assert miipher2("checkpoint", "verify", tmp_path).code == 0
    spoil(spoilt)
    said = miipher2("checkpoint", "verify", tmp_path)
    assert said.code == 1
    assert [f"ok      {path}" for path in whole] == [line for line in said.out.splitlines() if line.startswith("ok")]
    (failed,) = [line for line in said.out.splitlines() if line.startswith("FAILED")]
    assert str(spoilt.with_suffix("")) in failed
    assert named in failed
    assert said.out.splitlines()[-1] == "3 checked, 1 failed"
    results = json.loads(miipher2("checkpoint", "verify", "--json", tmp_path).out)
    assert [result["ok"] for result in results] == [True, False, True]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"rng": {"0": {"python": {}, "numpy": {}, "torch": torch.zeros(1)}}}, "cuda"),
        ({"model": {"weight": torch.tensor([1.0, float("nan")])}}, "'weight'"),
    ],
)
def test_verify_finds_what_was_saved_wrong(
    changed: dict[str, Any], named: str, tmp_path: Path, miipher2: Command
) -> None:
    said = miipher2("checkpoint", "verify", write(tmp_path, content_of(1, **changed)))
    assert said.code == 1
    assert named in said.out


def test_verify_finds_a_name_of_another_step(tmp_path: Path, miipher2: Command) -> None:
    path = write(tmp_path, content_of(1))
    for file in (path, json_path(path)):
        file.rename(file.with_stem("checkpoint_9"))
    said = miipher2("checkpoint", "verify", path.with_stem("checkpoint_9"))
    assert said.code == 1
    assert "its name says 9" in said.out
