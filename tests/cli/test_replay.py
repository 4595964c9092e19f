"""`miipher2 checkpoint replay` on a real run: the same bits, and what it says where they are not."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoints import Command, content_of, write

import miipher2.data.batches
import miipher2.training.stage
from miipher2 import rng
from miipher2.cli import checkpoint_replay as replay
from miipher2.config.paths import ROOT
from miipher2.training import checkpoint

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
    for module in (replay, miipher2.batches, miipher2.stage):
        monkeypatch.setattr(module, "ROOT", workspace)
    # It is disabled anyway, and its types are checked here, where Hydra's lists are no lists.
    monkeypatch.setattr(miipher2.stage, "start_wandb", lambda *_, **__: None)
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with rng.guarded():
        yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def respoil(path: Path, entry: str, change: Any) -> None:
    """Change one entry of a checkpoint, and describe it anew, so that the file itself is whole."""
    content, _ = checkpoint.load(path)
    change(content[entry])
    summary = json.loads(checkpoint.json_path(path).read_text())
    folder = path.parent / "again"
    folder.mkdir(exist_ok=True)
    made = checkpoint.save(folder, content, summary)
    for file in (made, checkpoint.json_path(made)):
        file.replace(path.parent / file.name)


def files_of(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("here")
def test_the_updates_of_a_run_can_be_made_again_to_the_same_bits_and_nothing_is_touched(
    run_folder: Path, workspace: Path, miipher2: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = files_of(workspace)
    said = miipher2("checkpoint", "replay", run_folder / "checkpoint_2.pt", run_folder / "checkpoint_6.pt")
    assert (said.code, said.out) == (0, "bit-identical: updates 3 to 6, compared at 4, 6\n"), said.error
    assert files_of(workspace) == before
    assert list(tmp_path.glob("miipher2*")) == []


def add(name: str, index: int = 0) -> Any:
    def change(entry: dict[str, Any]) -> None:
        entry[name].view(-1)[index] += 1e-3

    return change


def moved_moment(optimizers: dict[str, Any]) -> None:
    next(iter(optimizers["adapter"].values()))["exp_avg"].add_(1e-3)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("step", "entry", "change", "named", "between"),
    [
        (2, "optimizers", moved_moment, r"(model|optimizers)\.", (2, 4)),
        (2, "rng", lambda states: states["0"]["python"].update(gauss=1.0), r"rng\.0\.python\.gauss", (2, 4)),
        (6, "model", add("normaliser.mean"), r"model\.normaliser\.mean", (4, 6)),
    ],
)
def test_it_names_the_first_entry_that_differs_and_the_steps_between_which_it_arose(
    run_folder: Path,
    step: int,
    entry: str,
    change: Any,
    named: str,
    between: tuple[int, int],
    miipher2: Command,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run_folder, folder)
    respoil(folder / f"checkpoint_{step}.pt", entry, change)
    words = ("checkpoint", "replay", folder / "checkpoint_2.pt", folder / "checkpoint_6.pt")
    said = miipher2(*words)
    assert said.code == 1, said
    assert re.match(f"different: {named}", said.out)
    assert said.out.endswith(f"it arose between step {between[0]} and step {between[1]}\n")
    found = json.loads(miipher2(*words, "--json").out)
    assert found["identical"] is False
    assert found["differs_at"] == between[1]
    assert re.match(named, found["first_difference"])


@pytest.mark.usefixtures("here")
def test_history_is_compared_too(run_folder: Path, miipher2: Command, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run_folder, folder)
    content, _ = checkpoint.load(folder / "checkpoint_4.pt")
    rows = content["history"].splitlines()
    rows[-1] += "1"
    (folder / "again").mkdir()
    summary = json.loads((folder / "checkpoint_4.json").read_text())
    made = checkpoint.save(folder / "again", content | {"history": "\n".join(rows) + "\n"}, summary)
    said = miipher2("checkpoint", "replay", folder / "checkpoint_2.pt", made)
    assert said.code == 1
    assert said.out.startswith("different: history: different from row 5 on")


def test_only_checkpoints_of_one_run_in_their_order_can_be_replayed(tmp_path: Path, miipher2: Command) -> None:
    one, two = write(tmp_path / "a", content_of(1)), write(tmp_path / "a", content_of(2))
    other = write(tmp_path / "b", content_of(2, run_id="run-2"))
    for words, named in (((two, one), "earlier"), ((one, one), "earlier"), ((one, other), "run_id run-1")):
        said = miipher2("checkpoint", "replay", *words)
        assert said.code == 2
        assert named in said.error


def test_recipes_and_metrics_are_those_of_the_stage_scripts() -> None:
    found = {}
    for script in (ROOT / "stages").glob("*.py"):
        text = script.read_text()
        if (
            call := re.search(r'run_stage\(composed, "(\w+)", (\w+)\.from_config, best_metric="([\w/]+)"\)', text)
        ) is None:
            continue
        module = re.search(rf"from (\S+) import {call[2]}", text)
        assert module is not None
        found[call[1]] = (module[1], call[2], call[3])
    assert found == replay.RECIPES


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_vocoder_with_its_discriminators_can_be_replayed(workspace: Path, stages: Any, miipher2: Command) -> None:
    small = [word.replace("adapter_mini", "hifigan_pretrain_mini").replace("replayed", "replayed_v") for word in SMALL]
    small += ["data.segment_frames=8", "loss.adversarial_from_step=1", "ema_decay=0.9"]
    done = stages.run("pre_train_vocoder", *small)
    assert done.code == 0, done.output
    folder = workspace / "exp/replayed_v"
    said = miipher2("checkpoint", "replay", folder / "checkpoint_2.pt", folder / "checkpoint_6.pt")
    assert said.code == 0, said
