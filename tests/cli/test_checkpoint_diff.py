"""`miipher2 checkpoint diff`: equal, close and different tensors, and settings that cannot alter a result."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_checkpoints import CONFIG, Command, flip, make_checkpoint, write


def test_equal_states_of_two_runs_are_equal_and_their_identity_is_only_shown(tmp_path: Path, miipher2: Command) -> None:
    config = CONFIG | {"log_interval": 1, "checkpoint": {"resume_from": "exp/x.pt"}}
    a = write(tmp_path / "a", make_checkpoint(3))
    b = write(tmp_path / "b", make_checkpoint(3, run_id="run-2", config=config, parents=[{"step": 1}]))
    result = miipher2("checkpoint", "diff", a, b)
    assert result.code == 0, result.out
    assert result.out.splitlines()[-1] == "equal"
    assert "checkpoint.resume_from: None -> exp/x.pt (cannot alter a result, not counted)" in result.out
    assert "run_id: 'run-1' and 'run-2' (not counted)" in result.out


def test_diff_lists_close_different_and_missing_tensors_by_name(tmp_path: Path, miipher2: Command) -> None:
    same = torch.tensor([1.0, float("nan")])
    wide = torch.full((2, 2), 8.0)
    near, far = wide.clone(), wide.clone()
    near[0, 1] += 2**-16
    far[0, 1] += 0.5
    a = {"same": same, "near": wide, "far": wide, "only_a": wide, "shape": wide}
    b = {"same": same, "near": near, "far": far, "only_b": wide, "shape": wide[:1]}
    paths = [write(tmp_path / name, make_checkpoint(3, model=model)) for name, model in (("a", a), ("b", b))]
    result = miipher2("checkpoint", "diff", "--json", *paths)
    assert result.code == 1
    differences = {one["name"]: (one["kind"], one["largest"]) for one in json.loads(result.out)["differences"]}
    assert differences == {
        "model.near": ("close", 2**-16),
        "model.far": ("different", 0.5),
        "model.only_a": ("missing in B", None),
        "model.only_b": ("missing in A", None),
        "model.shape": ("different", None),
    }
    text = miipher2("checkpoint", "diff", *paths).out
    assert "model.near: close, largest difference 1.53e-05" in text
    assert "model: 1 equal, 1 close, 2 different, 1 missing in B, 1 missing in A" in text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"config": CONFIG | {"optim": {"lr": 0.2, "betas": [0.9, 0.99]}}}, "optim.lr: 0.1 -> 0.2"),
        ({"data_sha256": "c" * 64}, "data_sha256: dddd"),
        ({"environment": {"torch": "2", "threads": "2"}}, "environment.threads: 1 -> 2"),
        ({"schedules": {"adapter": {"updates": 3}, "other": {}}}, "schedules.other: missing in A"),
        ({"optimizers": {"adapter": {}}}, "optimizers.adapter.weight.exp_avg: missing in B"),
        ({"schedules": {"adapter": {"updates": 9}}}, "schedules.adapter.updates: different: 3 and 9"),
        ({"best": None}, "best"),
        ({"history": "step,tiny/loss,valid/loss\n1,8,7\n"}, "history: different from row 3 on"),
        ({"ema": {"weight": torch.zeros(1)}}, "ema.weight: missing in A"),
        ({"stage": "finetune_vocoder"}, "stage: train_adapter -> finetune_vocoder"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_diff_counts_every_entry_that_can_alter_a_result(
    changed: dict[str, Any], message: str, tmp_path: Path, miipher2: Command
) -> None:
    original = make_checkpoint(3)
    result = miipher2(
        "checkpoint", "diff", write(tmp_path / "a", original), write(tmp_path / "b", replace(original, **changed))
    )
    assert result.code == 1
    assert message in result.out
    assert result.out.splitlines()[-1] == "different"


def test_diff_counts_the_random_generators(tmp_path: Path, miipher2: Command) -> None:
    a = write(tmp_path / "a", make_checkpoint(3))
    torch.rand(1)
    result = miipher2("checkpoint", "diff", a, write(tmp_path / "b", make_checkpoint(3)))
    assert result.code == 1
    assert "rng.0.torch: different" in result.out


def test_diff_compares_published_weights(tmp_path: Path, miipher2: Command) -> None:
    for name, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        save_file({"weight": torch.full((2,), value)}, tmp_path / f"{name}.safetensors")
    a, b, c = (tmp_path / f"{name}.safetensors" for name in "abc")
    assert miipher2("checkpoint", "diff", a, b).code == 0
    assert miipher2("checkpoint", "diff", a, c).code == 1


def test_diff_reports_a_damaged_file_in_one_line(tmp_path: Path, miipher2: Command) -> None:
    path = write(tmp_path, make_checkpoint(3))
    flip(path)
    result = miipher2("checkpoint", "diff", path, path)
    assert result.code == 2
    assert "damaged" in result.error
