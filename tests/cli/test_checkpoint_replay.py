"""`miipher2 checkpoint replay` on a real run: bit-identical, or the first difference and where it arose."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoints import Command, make_checkpoint, write

from miipher2 import rng
from miipher2.cli.checkpoint import replay as checkpoint_replay
from miipher2.config import resume_routing
from miipher2.data import dataloader
from miipher2.training import checkpoint, stage
from miipher2.training.summary import json_path

SMALL = [
    "--config-name=adapter_mini",
    "name=replayed",
    "steps=6",
    "batch_size=2",
    "validation_batches=1",
    "data.crop_seconds=0.4",
    "log_interval=1",
    "validation_interval=2",
    "checkpoint.save_interval=2",
    "wandb.mode=disabled",
    "loader.num_workers=0",
    "runtime.threads=1",
]


@pytest.fixture(scope="module")
def run_folder(workspace: Path, stages: Any) -> Path:
    """Return the folder of a run with checkpoints at the steps 2, 4 and 6; not to be written to."""
    done = stages.run("train_adapter", *SMALL)
    assert done.code == 0, done.output
    return workspace / "exp/replayed"


@pytest.fixture
def here(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the workspace the repository of this process, and leave PyTorch as it was."""
    for module in (checkpoint_replay, dataloader, stage, resume_routing):
        monkeypatch.setattr(module, "ROOT", workspace)
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with rng.guarded():
        yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def change_entry(path: Path, entry: str, change: Any) -> None:
    """Change one entry of a checkpoint, and write its JSON anew, so that the file itself is intact."""
    content, _ = checkpoint.load(path)
    change(getattr(content, entry))
    summary = json.loads(json_path(path).read_text())
    folder = path.parent / "again"
    folder.mkdir(exist_ok=True)
    again = checkpoint.save(folder, content, summary)
    for file in (again, json_path(again)):
        file.replace(path.parent / file.name)


def files_of(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("here")
def test_a_replay_is_bit_identical_and_touches_nothing(
    run_folder: Path, workspace: Path, miipher2: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = files_of(workspace)
    result = miipher2("checkpoint", "replay", run_folder / "checkpoint_2.pt", run_folder / "checkpoint_6.pt")
    assert (result.code, result.out) == (0, "bit-identical: updates 3 to 6, compared at 4, 6\n"), result.error
    assert files_of(workspace) == before
    assert list(tmp_path.glob("miipher2*")) == []


def add(name: str, index: int = 0) -> Any:
    def change(entry: dict[str, Any]) -> None:
        entry[name].view(-1)[index] += 1e-3

    return change


def change_moment(optimizers: dict[str, Any]) -> None:
    next(iter(optimizers["adapter"].values()))["exp_avg"].add_(1e-3)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("step", "entry", "change", "name", "between"),
    [
        (2, "optimizers", change_moment, r"(model|optimizers)\.", (2, 4)),
        (2, "rng", lambda states: states["0"]["python"].update(gauss=1.0), r"rng\.0\.python\.gauss", (2, 4)),
        (6, "model", add("normaliser.mean"), r"model\.normaliser\.mean", (4, 6)),
    ],
)
def test_the_first_difference_is_named_with_the_steps_between_which_it_arose(
    run_folder: Path,
    step: int,
    entry: str,
    change: Any,
    name: str,
    between: tuple[int, int],
    miipher2: Command,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run_folder, folder)
    change_entry(folder / f"checkpoint_{step}.pt", entry, change)
    words = ("checkpoint", "replay", folder / "checkpoint_2.pt", folder / "checkpoint_6.pt")
    result = miipher2(*words)
    assert result.code == 1, result
    assert re.match(f"different: {name}", result.out)
    assert result.out.endswith(f"it arose between step {between[0]} and step {between[1]}\n")
    printed = json.loads(miipher2(*words, "--json").out)
    assert printed["identical"] is False
    assert printed["differs_at"] == between[1]
    assert re.match(name, printed["first_difference"])


@pytest.mark.usefixtures("here")
def test_history_is_compared_too(run_folder: Path, miipher2: Command, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run_folder, folder)
    content, _ = checkpoint.load(folder / "checkpoint_4.pt")
    rows = content.history.splitlines()
    rows[-1] += "1"
    (folder / "again").mkdir()
    summary = json.loads((folder / "checkpoint_4.json").read_text())
    again = checkpoint.save(folder / "again", replace(content, history="\n".join(rows) + "\n"), summary)
    result = miipher2("checkpoint", "replay", folder / "checkpoint_2.pt", again)
    assert result.code == 1
    assert result.out.startswith("different: history: different from row 5 on")


def test_only_two_checkpoints_of_one_run_in_order_can_be_replayed(tmp_path: Path, miipher2: Command) -> None:
    one, two = write(tmp_path / "a", make_checkpoint(1)), write(tmp_path / "a", make_checkpoint(2))
    other = write(tmp_path / "b", make_checkpoint(2, run_id="run-2"))
    for words, name in (((two, one), "earlier"), ((one, one), "earlier"), ((one, other), "run_id run-1")):
        result = miipher2("checkpoint", "replay", *words)
        assert result.code == 2
        assert name in result.error


@pytest.mark.usefixtures("here")
def test_spans_are_drawn_by_a_seed_that_repeats_them(run_folder: Path, miipher2: Command, tmp_path: Path) -> None:
    first = miipher2("checkpoint", "replay", "--spans", 1, run_folder)
    assert first.code == 0, first.error
    head, line = first.out.splitlines()
    assert (seed := re.fullmatch(r"1 of 2 spans, drawn by --seed (\d+)", head))
    assert re.fullmatch(r"bit-identical: updates (3 to 4, compared at 4|5 to 6, compared at 6)", line)
    assert miipher2("checkpoint", "replay", "--spans", 1, "--seed", seed[1], run_folder).out == first.out
    folder = tmp_path / "copy"
    shutil.copytree(run_folder, folder)
    change_entry(folder / "checkpoint_6.pt", "model", add("normaliser.mean"))
    every = json.loads(miipher2("checkpoint", "replay", "--json", "--spans", 9, "--seed", 0, folder).out)
    assert [span["identical"] for span in every["spans"]] == [True, False]
    assert (every["identical"], every["seed"]) == (False, 0)


@pytest.mark.usefixtures("here")
def test_other_batches_are_a_difference_even_where_the_bits_are_the_same(
    run_folder: Path, miipher2: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run_folder, folder)
    summary = json.loads((folder / "checkpoint_4.json").read_text())
    summary["since_parent"]["batches_sha256"] = "0" * 64
    (folder / "checkpoint_4.json").write_text(json.dumps(summary))
    result = miipher2("checkpoint", "replay", folder / "checkpoint_2.pt", folder / "checkpoint_4.pt")
    assert result.code == 1
    assert result.out.startswith("different: batches: different")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--spans", "0"), "--spans 0: should be at least 1"),
        (("--spans", "3"), "should be a folder with two checkpoints of one run"),
        ((), "TO is missing"),
    ],
)
def test_a_replay_without_two_checkpoints_is_one_line(
    tmp_path: Path, miipher2: Command, words: tuple[str, ...], message: str
) -> None:
    result = miipher2("checkpoint", "replay", *words, tmp_path)
    assert result.code == 2
    assert message in result.error


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_run_of_two_processes_is_replayed_by_two(
    workspace: Path, stages: Any, miipher2: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(workspace / "src"))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    words = [word.replace("replayed", "replayed_pair") for word in SMALL]
    script = [str(workspace / "stages/train_adapter.py"), *words]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*launcher, *script], check=True, capture_output=True, cwd=workspace)
    folder = workspace / "exp/replayed_pair"
    damaged = tmp_path / "copy"
    shutil.copytree(folder, damaged)
    change_entry(damaged / "checkpoint_6.pt", "rng", lambda states: states["1"]["python"].update(gauss=1.0))
    result = miipher2("checkpoint", "replay", "--json", damaged / "checkpoint_2.pt", damaged / "checkpoint_6.pt")
    assert result.code == 1, result.error
    found = json.loads(result.out)
    assert (found["equal_at"], found["first_difference"]) == ([4], "rng.1.python.gauss")


def test_a_process_of_several_that_fails_leaves_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    assert checkpoint_replay.run_rank(tmp_path / "a.pt", tmp_path / "b.pt", tmp_path) == 1
    assert f"{tmp_path / 'a.pt'}: no such checkpoint" in json.loads((tmp_path / "found_0.json").read_text())["error"]


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_vocoder_with_its_discriminators_can_be_replayed(workspace: Path, stages: Any, miipher2: Command) -> None:
    small = [word.replace("adapter_mini", "hifigan_pretrain_mini").replace("replayed", "replayed_v") for word in SMALL]
    small += ["data.segment_frames=8", "loss.adversarial_from_step=1", "ema_decay=0.9"]
    done = stages.run("pre_train_vocoder", *small)
    assert done.code == 0, done.output
    folder = workspace / "exp/replayed_v"
    result = miipher2("checkpoint", "replay", folder / "checkpoint_2.pt", folder / "checkpoint_6.pt")
    assert result.code == 0, result
