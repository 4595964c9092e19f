"""`miipher2 checkpoint`: ls, show, verify and diff on checkpoints made by the code that makes them."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_checkpoints import CONFIG, Command, content_of, write

from miipher2.training.checkpoint import summary_path


def test_ls_tells_step_size_loss_age_run_and_lineage(tmp_path: Path, miipher2: Command) -> None:
    parents = [{"path": "x", "step": 1, "sha256": "0"}, {"path": "y", "step": 2, "sha256": "0"}]
    write(tmp_path, content_of(1))
    path = write(tmp_path, content_of(3, parents=parents, best={"metric": "valid/loss", "value": 4.5, "step": 2}))
    said = miipher2("checkpoint", "ls", tmp_path)
    assert said.code == 0
    head, first, second = said.out.splitlines()
    assert head.split() == ["step", "size", "valid/loss", "best", "age", "run", "lineage", "file"]
    assert first.split()[0] == "1"
    assert first.split()[3] == "7"
    assert "fresh" in first
    assert second.split()[0] == "3"
    assert second.split()[3:5] == ["5", "4.5@2"]
    assert "resumed at 1, 2" in second
    assert "run-1" in second
    row = json.loads(miipher2("checkpoint", "ls", "--json", tmp_path).out)[1]
    assert row["bytes"] == path.stat().st_size
    assert (row["loss"], row["best"], row["best_step"], row["step"]) == (5.0, 4.5, 2, 3)
    assert row["parents"] == parents


def test_ls_sorts_by_step_and_not_by_name_and_lists_all_runs_of_a_folder(tmp_path: Path, miipher2: Command) -> None:
    for step in (1000, 900, 2):
        write(tmp_path / "a", content_of(step, history="step,valid/loss\n"), saved_at="2026-01-01T00:00:00+00:00")
    write(tmp_path / "b", content_of(1))
    rows = json.loads(miipher2("checkpoint", "ls", "--json", tmp_path).out)
    assert [row["step"] for row in rows] == [2, 900, 1000, 1]


def test_ls_gives_no_loss_of_another_run(tmp_path: Path, miipher2: Command) -> None:
    write(tmp_path, content_of(1, run_id="older"), saved_at="2025-01-01T00:00:00+00:00")
    write(tmp_path, content_of(2))
    older, newer = json.loads(miipher2("checkpoint", "ls", "--json", tmp_path).out)
    assert older["loss"] is None
    assert newer["loss"] == 6.0


def test_ls_lists_a_checkpoint_without_json_and_an_empty_folder(tmp_path: Path, miipher2: Command) -> None:
    assert miipher2("checkpoint", "ls", tmp_path).code == 0
    summary_path(write(tmp_path, content_of(1))).unlink()
    said = miipher2("checkpoint", "ls", tmp_path)
    assert said.code == 0
    assert "checkpoint_1.pt" in said.out


@pytest.fixture
def published(tmp_path: Path) -> Path:
    folder = tmp_path / "exp/tiny/published"
    parents = [{"path": "exp/tiny/checkpoint_2.pt", "step": 2, "sha256": "p" * 64}]
    write(folder, content_of(2))
    write(folder, content_of(4, parents=parents))
    save_file({"bias": torch.zeros(3), "weight": torch.ones(2, 3)}, folder / "final.safetensors")
    (folder / "config.yaml").write_text("name: tiny\n")
    return folder


@pytest.mark.parametrize("name", ["", "final.safetensors", "config.yaml", "history.csv"])
def test_show_leads_from_anything_published_to_code_data_parameters_and_parents(
    published: Path, name: str, miipher2: Command
) -> None:
    shown = json.loads(miipher2("checkpoint", "show", "--json", published / name).out)
    assert shown["code"] == {"commit": "abc", "dirty": False}
    assert shown["data_sha256"] == "d" * 64
    assert shown["config"] == CONFIG
    assert shown["step"] == 4
    assert [parent["step"] for parent in shown["parents"]] == [2]
    assert [(weights["file"], weights["parameters"]) for weights in shown["weights"]] == [("final.safetensors", 9)]
    assert "commit: abc" in miipher2("checkpoint", "show", published / name).out


def test_show_tells_the_same_of_a_checkpoint_its_json_and_without_json(tmp_path: Path, miipher2: Command) -> None:
    path = write(tmp_path, content_of(5))
    wanted = json.loads(miipher2("checkpoint", "show", "--json", path).out)
    assert json.loads(miipher2("checkpoint", "show", "--json", summary_path(path)).out) == wanted
    summary_path(path).unlink()
    found = json.loads(miipher2("checkpoint", "show", "--json", path).out)
    for key in ("step", "run_id", "config", "rng_sha256", "environment", "sha256", "bytes", "wandb", "parents"):
        assert found[key] == wanted[key]


def test_show_says_where_nothing_is_known(tmp_path: Path, miipher2: Command) -> None:
    said = miipher2("checkpoint", "show", tmp_path)
    assert said.code == 2
    assert "holds no checkpoint" in said.error


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit_json(path: Path, **changed: Any) -> None:
    described = summary_path(path)
    described.write_text(json.dumps(json.loads(described.read_text()) | changed))


def put_pickle(path: Path) -> None:
    summary_path(path).unlink()
    path.write_bytes(pickle.dumps({"format": 1}))


SPOILT = {
    "a flipped bit": (flip, "sha256"),
    "a cut": (lambda path: path.write_bytes(path.read_bytes()[:-7]), "sha256"),
    "a pickle": (put_pickle, "not a checkpoint"),
    "another digest": (lambda path: edit_json(path, sha256="0" * 64), "sha256"),
    "another step in the JSON": (lambda path: edit_json(path, step=7), "step differs"),
    "another configuration in the JSON": (lambda path: edit_json(path, config={}), "config differs"),
    "a JSON that is none": (lambda path: summary_path(path).write_text("{"), "damaged"),
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
    for file in (path, summary_path(path)):
        file.rename(file.with_stem("checkpoint_9"))
    said = miipher2("checkpoint", "verify", path.with_stem("checkpoint_9"))
    assert said.code == 1
    assert "its name says 9" in said.out


def test_verify_reads_published_weights_too(published: Path, miipher2: Command) -> None:
    assert miipher2("checkpoint", "verify", published).code == 0
    weights = published / "final.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    assert miipher2("checkpoint", "verify", published).code == 1


def test_equal_states_of_two_runs_are_equal_and_what_names_a_run_is_only_shown(
    tmp_path: Path, miipher2: Command
) -> None:
    config = CONFIG | {"log_interval": 1, "checkpoint": {"resume_from": "exp/x.pt"}}
    a = write(tmp_path / "a", content_of(3))
    b = write(tmp_path / "b", content_of(3, run_id="run-2", config=config, parents=[{"step": 1}]))
    said = miipher2("checkpoint", "diff", a, b)
    assert said.code == 0, said.out
    assert said.out.splitlines()[-1] == "equal"
    assert "checkpoint.resume_from: None -> exp/x.pt (cannot alter a result, not counted)" in said.out
    assert "run_id: 'run-1' and 'run-2' (not counted)" in said.out


def test_diff_tells_close_different_and_missing_tensors_by_name(tmp_path: Path, miipher2: Command) -> None:
    same = torch.tensor([1.0, float("nan")])
    wide = torch.full((2, 2), 8.0)
    near, far = wide.clone(), wide.clone()
    near[0, 1] += 2**-16
    far[0, 1] += 0.5
    a = {"same": same, "near": wide, "far": wide, "only_a": wide, "shape": wide}
    b = {"same": same, "near": near, "far": far, "only_b": wide, "shape": wide[:1]}
    paths = [write(tmp_path / name, content_of(3, model=model)) for name, model in (("a", a), ("b", b))]
    said = miipher2("checkpoint", "diff", "--json", *paths)
    assert said.code == 1
    found = {one["name"]: (one["kind"], one["largest"]) for one in json.loads(said.out)["differences"]}
    assert found == {
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
    ("changed", "named"),
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
    changed: dict[str, Any], named: str, tmp_path: Path, miipher2: Command
) -> None:
    original = content_of(3)
    said = miipher2(
        "checkpoint", "diff", write(tmp_path / "a", original), write(tmp_path / "b", {**original, **changed})
    )
    assert said.code == 1
    assert named in said.out
    assert said.out.splitlines()[-1] == "different"


def test_diff_counts_the_random_generators(tmp_path: Path, miipher2: Command) -> None:
    a = write(tmp_path / "a", content_of(3))
    torch.rand(1)
    said = miipher2("checkpoint", "diff", a, write(tmp_path / "b", content_of(3)))
    assert said.code == 1
    assert "rng.0.torch: different" in said.out


def test_diff_compares_published_weights(tmp_path: Path, miipher2: Command) -> None:
    for name, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        save_file({"weight": torch.full((2,), value)}, tmp_path / f"{name}.safetensors")
    a, b, c = (tmp_path / f"{name}.safetensors" for name in "abc")
    assert miipher2("checkpoint", "diff", a, b).code == 0
    assert miipher2("checkpoint", "diff", a, c).code == 1


def test_diff_says_a_damaged_file_in_one_line(tmp_path: Path, miipher2: Command) -> None:
    path = write(tmp_path, content_of(3))
    flip(path)
    said = miipher2("checkpoint", "diff", path, path)
    assert said.code == 2
    assert "damaged" in said.error
