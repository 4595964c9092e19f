"""`miipher2 checkpoint ls` and `show`, on checkpoints written by the real code, and on published weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_checkpoints import CONFIG, Command, make_checkpoint, write

from miipher2.training.summary import json_path


def test_ls_shows_step_size_loss_age_run_and_lineage(tmp_path: Path, miipher2: Command) -> None:
    parents = [{"path": "x", "step": 1, "sha256": "0"}, {"path": "y", "step": 2, "sha256": "0"}]
    write(tmp_path, make_checkpoint(1))
    path = write(tmp_path, make_checkpoint(3, parents=parents, best={"metric": "valid/loss", "value": 4.5, "step": 2}))
    result = miipher2("checkpoint", "ls", tmp_path)
    assert result.code == 0
    head, first, second = result.out.splitlines()
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
        write(tmp_path / "a", make_checkpoint(step, history="step,valid/loss\n"), saved_at="2026-01-01T00:00:00+00:00")
    write(tmp_path / "b", make_checkpoint(1))
    rows = json.loads(miipher2("checkpoint", "ls", "--json", tmp_path).out)
    assert [row["step"] for row in rows] == [2, 900, 1000, 1]


def test_ls_shows_no_loss_of_another_run(tmp_path: Path, miipher2: Command) -> None:
    write(tmp_path, make_checkpoint(1, run_id="older"), saved_at="2025-01-01T00:00:00+00:00")
    write(tmp_path, make_checkpoint(2))
    older, newer = json.loads(miipher2("checkpoint", "ls", "--json", tmp_path).out)
    assert older["loss"] is None
    assert newer["loss"] == 6.0


def test_ls_lists_a_checkpoint_without_json_and_an_empty_folder(tmp_path: Path, miipher2: Command) -> None:
    assert miipher2("checkpoint", "ls", tmp_path).code == 0
    json_path(write(tmp_path, make_checkpoint(1))).unlink()
    result = miipher2("checkpoint", "ls", tmp_path)
    assert result.code == 0
    assert "checkpoint_1.pt" in result.out


@pytest.fixture
def published(tmp_path: Path) -> Path:
    folder = tmp_path / "exp/tiny/published"
    parents = [{"path": "exp/tiny/checkpoint_2.pt", "step": 2, "sha256": "p" * 64}]
    write(folder, make_checkpoint(2))
    write(folder, make_checkpoint(4, parents=parents))
    save_file({"bias": torch.zeros(3), "weight": torch.ones(2, 3)}, folder / "final.safetensors")
    (folder / "config.yaml").write_text("name: tiny\n")
    return folder


@pytest.mark.parametrize("name", ["", "final.safetensors", "config.yaml", "history.csv"])
def test_show_finds_code_data_parameters_and_parents_of_anything_published(
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


def test_show_is_the_same_for_a_checkpoint_its_json_and_without_json(tmp_path: Path, miipher2: Command) -> None:
    path = write(tmp_path, make_checkpoint(5))
    expected = json.loads(miipher2("checkpoint", "show", "--json", path).out)
    assert json.loads(miipher2("checkpoint", "show", "--json", json_path(path)).out) == expected
    json_path(path).unlink()
    actual = json.loads(miipher2("checkpoint", "show", "--json", path).out)
    for key in ("step", "run_id", "config", "rng_sha256", "environment", "sha256", "bytes", "wandb", "parents"):
        assert actual[key] == expected[key]


def test_show_reports_a_folder_without_checkpoints(tmp_path: Path, miipher2: Command) -> None:
    result = miipher2("checkpoint", "show", tmp_path)
    assert result.code == 2
    assert "holds no checkpoint" in result.error


def test_verify_checks_published_weights_too(published: Path, miipher2: Command) -> None:
    assert miipher2("checkpoint", "verify", published).code == 0
    weights = published / "final.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    assert miipher2("checkpoint", "verify", published).code == 1
