"""Runs that were cut off: found, and the command that goes on with each."""

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from tiny_checkpoints import Command, content_of, write
from tiny_repository import make_run

import miipher2.config.params
from miipher2.cli.checkpoint_command import checkpoint_findings
from miipher2.config.params import compose_params


def commands(findings: Any) -> list[str]:
    return [command for finding in findings for command in finding.commands]


def test_a_run_that_was_cut_off_is_named_with_the_command_that_goes_on(repository: Path) -> None:
    make_run(repository, "train_adapter", (9, 10), (9,))
    make_run(repository, "pre_train_vocoder", (5,), (5,))
    (finding,) = checkpoint_findings(repository)
    assert finding.text.startswith("exp/adapter_mini/checkpoint_10.pt: step 10 of 350")
    assert finding.commands == ["uv run dvc exp run -S checkpoint.resume_from=exp/adapter_mini/checkpoint_10.pt"]
    assert finding.is_problem


def test_the_command_repeats_the_overrides_of_the_killed_run(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [
        "experiment=mhubert_147_layer_6",
        "data.source=data/embedded",
        "data.prepared=data/prepared/mine",
        "train_adapter.optim.betas=[0.8,0.9]",
        "train_adapter.steps=7000",
    ]
    params = compose_params(given)
    (repository / "params.yaml").write_text(miipher2.compose.OmegaConf.to_yaml(params))
    make_run(repository, "train_adapter", (10,))
    (command,) = commands(checkpoint_findings(repository))
    file = "exp/adapter_layer_6_mhubert_147/checkpoint_10.pt"
    words = " ".join(f"-S {word}" if "[" not in word else f"-S '{word}'" for word in given)
    assert sorted(command.split(" -S ")) == sorted(
        f"uv run dvc exp run {words} -S checkpoint.resume_from={file}".split(" -S ")
    )


def test_a_run_by_hand_goes_on_by_hand(repository: Path) -> None:
    make_run(repository, "train_adapter", (10,), name="mine", seed=3)
    assert commands(checkpoint_findings(repository)) == [
        "uv run stages/train_adapter.py --config-name=adapter_mini name=mine seed=3 "
        "checkpoint.resume_from=exp/mine/checkpoint_10.pt"
    ]


def test_the_command_can_be_asked_for(here: Path, miipher2: Command) -> None:
    file = make_run(here, "train_adapter", (9, 10), seed=3) / "checkpoint_9.pt"
    command = "uv run dvc exp run -S train_adapter.seed=3 -S checkpoint.resume_from=exp/adapter_mini/checkpoint_9.pt"
    (here / "params.yaml").write_text(OmegaConf.to_yaml(compose_params(["train_adapter.seed=3"])))
    assert miipher2("checkpoint", "command", file).out == f"{command}\n"
    assert json.loads(miipher2("checkpoint", "command", file, "--json").out) == {"command": command.split()}
    file.with_suffix(".json").write_text("{")
    assert "checkpoint_9.json: missing or damaged" in miipher2("checkpoint", "command", file).error


def test_configs_that_do_not_compose_cost_no_command(repository: Path) -> None:
    make_run(repository, "train_adapter", (10,), seed=3)
    for path in (repository / "configs").rglob("*.yaml"):
        path.write_text("a: [")
    (command,) = commands(checkpoint_findings(repository))
    assert command == "uv run dvc exp run -S checkpoint.resume_from=exp/adapter_mini/checkpoint_10.pt"


def test_a_run_in_progress_and_a_half_written_checkpoint_are_left_out(repository: Path) -> None:
    folder = make_run(repository, "train_adapter", (4, 10))
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert list(checkpoint_findings(repository)) == []
    (folder / "checkpoint_10.pt").write_bytes(b"cut")
    (finding,) = checkpoint_findings(repository)
    assert "checkpoint_4.pt" in finding.text


def test_another_experiment_checked_out_over_a_run_that_ended_is_a_note(repository: Path) -> None:
    folder = make_run(repository, "train_adapter", (350,))
    (finding,) = checkpoint_findings(repository)
    assert finding.is_problem  # it was killed between the last checkpoint and publishing
    write(folder / "published", content_of(9, run_id="another"))
    (finding,) = checkpoint_findings(repository)
    assert not finding.is_problem
