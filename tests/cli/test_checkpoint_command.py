"""Interrupted runs are found, each with the command that resumes it with all its settings."""

import fcntl
import json
import shlex
from pathlib import Path
from typing import Any

from tiny_checkpoints import Command, make_checkpoint, write
from tiny_repository import make_run

from miipher2.cli.doctor_checks import checkpoint_findings

DVC = "uv run dvc exp run"


def commands(findings: Any) -> list[str]:
    return [command for finding in findings for command in finding.commands]


def test_an_interrupted_run_is_reported_with_the_command_that_resumes_it(repository: Path) -> None:
    make_run(repository, "train_adapter", (9, 10), (9,))
    make_run(repository, "pre_train_vocoder", (5,), (5,))
    (finding,) = checkpoint_findings(repository)
    assert finding.text.startswith("exp/adapter_embedded/checkpoint_10.pt: step 10 of 200")
    assert finding.commands == [f"{DVC} -S checkpoint.resume_from=exp/adapter_embedded/checkpoint_10.pt"]
    assert finding.is_problem


def test_the_command_repeats_the_overrides_of_the_run(repository: Path) -> None:
    words = ["experiment=mhubert_147_layer_6", "train_adapter.optim.betas=[0.8,0.9]", "train_adapter.steps=7000"]
    command = [*DVC.split(), *(part for word in words for part in ("-S", word))]
    make_run(repository, "train_adapter", (10,), command=command)
    (printed,) = commands(checkpoint_findings(repository))
    file = "exp/adapter_embedded/checkpoint_10.pt"
    assert shlex.split(printed) == [*command, "-S", f"checkpoint.resume_from={file}"]


def test_a_run_by_hand_is_resumed_by_hand(repository: Path) -> None:
    command = ["uv", "run", "stages/train_adapter.py", "--config-name=adapter_embedded", "name=mine", "seed=3"]
    make_run(repository, "train_adapter", (10,), command=command, name="mine", seed=3)
    assert commands(checkpoint_findings(repository)) == [
        "uv run stages/train_adapter.py --config-name=adapter_embedded name=mine seed=3 "
        "checkpoint.resume_from=exp/mine/checkpoint_10.pt"
    ]


def test_the_command_line_prints_the_command(here: Path, miipher2: Command) -> None:
    file = make_run(here, "train_adapter", (9,), command=[*DVC.split(), "-S", "seed=3"]) / "checkpoint_9.pt"
    command = f"{DVC} -S seed=3 -S checkpoint.resume_from=exp/adapter_embedded/checkpoint_9.pt"
    assert miipher2("checkpoint", "command", file).out == f"{command}\n"
    assert json.loads(miipher2("checkpoint", "command", file, "--json").out) == {"command": command.split()}
    file.with_suffix(".json").write_text("{")
    assert "checkpoint_9.json: missing or damaged" in miipher2("checkpoint", "command", file).error


def test_a_file_of_dvc_in_another_folder_is_routed_by_its_stage(here: Path, miipher2: Command) -> None:
    folder = make_run(here, "train_adapter", (9,), (9,), command=DVC.split())
    aside = here / "exp/.replaced/20260101-000000"
    aside.mkdir(parents=True)
    for name in ("checkpoint_9.pt", "checkpoint_9.json"):
        (folder / name).rename(aside / name)
    words = shlex.split(miipher2("checkpoint", "command", aside / "checkpoint_9.pt").out)
    file = "exp/.replaced/20260101-000000/checkpoint_9.pt"
    assert words == [*DVC.split(), "-S", f"checkpoint.resume_from={{train_adapter: {file}}}"]
    published = miipher2("checkpoint", "command", folder / "published/checkpoint_9.pt")
    assert "DVC empties published/ before the stage runs; copy the file out first" in published.error


def test_without_a_recorded_command_the_runs_configuration_is_assumed(here: Path, miipher2: Command) -> None:
    file = make_run(here, "train_adapter", (9,), command=None) / "checkpoint_9.pt"
    result = miipher2("checkpoint", "command", file)
    words = "uv run stages/train_adapter.py --config-name=adapter_embedded"
    assert result.out == f"{words} checkpoint.resume_from=exp/adapter_embedded/checkpoint_9.pt\n"
    assert "recorded no overrides" in result.error


def test_a_running_run_and_a_half_written_checkpoint_are_left_out(repository: Path) -> None:
    folder = make_run(repository, "train_adapter", (4, 10))
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert list(checkpoint_findings(repository)) == []
    (folder / "checkpoint_10.pt").write_bytes(b"half")
    (finding,) = checkpoint_findings(repository)
    assert "checkpoint_4.pt" in finding.text


def test_another_experiment_checked_out_over_a_finished_run_is_a_note(repository: Path) -> None:
    folder = make_run(repository, "train_adapter", (200,))
    (finding,) = checkpoint_findings(repository)
    assert finding.is_problem  # killed between the last checkpoint and publishing
    write(folder / "published", make_checkpoint(9, run_id="another"))
    (finding,) = checkpoint_findings(repository)
    assert not finding.is_problem
