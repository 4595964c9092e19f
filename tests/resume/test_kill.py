"""The real stages, killed by SIGKILL at any moment and resumed, end with the bits of a run that was never stopped."""

import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from miipher2.rng import stream
from miipher2.training.checkpoint import load
from miipher2.training.summary import list_checkpoints

SLOW_KILLS, SOAK_KILLS = 2, 50
STEPS, LAST = 12, "checkpoint_12.pt"
COMMON = (
    f"steps={STEPS}",
    "batch_size=2",
    "validation_batches=1",
    "data.crop_seconds=0.4",
    "log_interval=1",
    "validation_interval=3",
    "checkpoint.save_interval=4",
    "wandb.mode=disabled",
    "loader.num_workers=0",
    "runtime.threads=1",
)
VOCODER = (
    "model.generator.channels=16",
    "model.discriminator.periods=[2,3]",
    "data.segment_frames=8",
    "loss.adversarial_from_step=6",
)
# The fine-tuning stage starts from the other two's published weights.
CASES: dict[str, tuple[str, ...]] = {
    "train_adapter": ("--config-name=adapter_mini",),
    "pre_train_vocoder": ("--config-name=hifigan_pretrain_mini", *VOCODER),
    "finetune_vocoder": (
        "--config-name=hifigan_ft_mini",
        *VOCODER,
        "ema_decay=0.8",
        "init_from.adapter=exp/whole_train_adapter/published",
        "init_from.vocoder=exp/whole_pre_train_vocoder/published",
    ),
}
SAMPLES = {
    "train_adapter": {"degraded", "cleaned"},
    "pre_train_vocoder": {"degraded", "generated"},
    "finetune_vocoder": {"degraded", "restored"},
}
CHANGED = (
    ("loader.num_workers=1", "loader.prefetch=3", "checkpoint.save_interval=5", "wandb.mode=offline"),
    ("loader.num_workers=2", "loader.prefetch=1", "checkpoint.save_interval=1", "wandb.mode=offline"),
    ("loader.num_workers=0", "checkpoint.save_interval=3", "loader.cache_mb=1", "wandb.mode=offline"),
    ("loader.num_workers=4", "loader.prefetch=2", "checkpoint.publish_last_n=1", "checkpoint.keep_last_n=1"),
)


@pytest.fixture(scope="session")
def whole(stages: Any) -> Callable[[str], Path]:
    """Return a function that gives the folder of a stage's run that was never stopped."""

    def folder(stage: str) -> Path:
        run_dir: Path = stages.root / "exp" / f"whole_{stage}"
        if stage == "finetune_vocoder":
            folder("train_adapter"), folder("pre_train_vocoder")
        if not (run_dir / "published").exists():
            done = stages.run(stage, *CASES[stage], *COMMON, f"name={run_dir.name}")
            assert done.code == 0, done.output
        return run_dir

    return folder


def kill_somewhere(stages: Any, stage: str, name: str, rng: Any, *more: str) -> str:
    """Start a stage, kill it at a moment drawn from `rng`, and return which it was."""
    folder = stages.root / "exp" / name
    rows, extra_seconds = int(rng.integers(1, STEPS + 1)), float(rng.uniform(0, 0.15))
    step = int(rng.choice([4, 8, 12]))
    moments: dict[str, Callable[[], bool]] = {
        "training": lambda: _rows(folder) >= rows,
        "writing": lambda: (folder / f".checkpoint_{step}.pt.tmp").exists(),
        "describing": lambda: (folder / f"checkpoint_{step}.json").exists(),
        "saved": lambda: (folder / f"checkpoint_{step}.pt").exists(),
        "publishing": lambda: (folder / ".published.tmp").exists(),
    }
    moment = str(rng.choice(list(moments), p=[0.4, 0.2, 0.2, 0.1, 0.1]))

    def is_due() -> bool:
        if not moments[moment]():
            return False
        if moment == "training":
            time.sleep(extra_seconds)  # into the middle of an update, a validation or a save
        return True

    pid = stages.start(stage, *CASES[stage], *COMMON, f"name={name}", *more)
    done = stages.kill_when(pid, is_due)
    assert done.code in (-9, 0), done.output  # 0: it ended before the signal arrived
    return f"{moment}, step {step}, row {rows} and {extra_seconds:.3f} s"


def _rows(folder: Path) -> int:
    try:
        return (folder / "history.csv").read_text().count("\n") - 1
    except FileNotFoundError:
        return 0


def newest(folder: Path) -> list[str]:
    """Return the override that resumes from the newest checkpoint, after checking that every visible one is intact."""
    checkpoints = list_checkpoints(folder) if folder.exists() else []
    for _, path in checkpoints:
        load(path)
    return [f"checkpoint.resume_from=exp/{folder.name}/{checkpoints[-1][1].name}"] if checkpoints else []


def assert_same(folder: Path, whole: Path, *, history: bool = True) -> None:
    """Check that two runs left the same bits."""
    ours, theirs = load(folder / LAST)[0], load(whole / LAST)[0]
    for entry in ("model", "optimizers", "ema", "schedules", "rng", "step"):
        assert_equal(getattr(ours, entry), getattr(theirs, entry), entry)
    files = ["final.safetensors", *(["discriminators.safetensors"] if "adapter" not in whole.name else [])]
    for file in [f"published/{name}" for name in files] + (["history.csv", "published/history.csv"] if history else []):
        assert (folder / file).read_bytes() == (whole / file).read_bytes(), file


def assert_equal(ours: Any, theirs: Any, where: str) -> None:
    """Check that two values are equal, and name the first place where they differ."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_equal(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list):
        assert len(ours) == len(theirs), where
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_equal(one, other, f"{where}.{index}")
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), where
    else:
        assert ours == theirs, where


def kill_and_resume(stages: Any, stage: str, whole: Path, index: int, kills: int) -> None:
    """Kill a run several times, resume with other settings, and compare its end with the uninterrupted run's."""
    rng = stream(20, stage, index)
    name = f"killed_{stage}_{index}_{kills}"
    folder = stages.root / "exp" / name
    kills_so_far = [kill_somewhere(stages, stage, name, rng, "loader.num_workers=2", "wandb.mode=offline")]
    for _ in range(kills - 1):
        kills_so_far.append(kill_somewhere(stages, stage, name, rng, *newest(folder)))
    changed = CHANGED[index % len(CHANGED)]
    from_step = max((step for step, _ in list_checkpoints(folder)), default=0) if folder.exists() else 0
    done = stages.run(stage, *CASES[stage], *COMMON, f"name={name}", *changed, *newest(folder))
    assert done.code == 0, f"killed while {kills_so_far}: {done.output}"
    assert "Configuration changes" not in done.output, done.output
    assert_same(folder, whole)
    # Logging samples to W&B, which the uninterrupted run did not do, changed nothing.
    if "wandb.mode=offline" in changed and from_step < STEPS:
        logged = {path.name.split("_")[0] for path in folder.glob("wandb/*/files/media/*/example_1/*")}
        assert {"clean", *SAMPLES[stage]} <= logged, f"killed while {kills_so_far}, resumed from step {from_step}"


@pytest.mark.parametrize(
    "stage", [pytest.param(stage, marks=[] if stage == "train_adapter" else pytest.mark.slow) for stage in CASES]
)
def test_a_stage_killed_and_resumed_is_the_same_run(stages: Any, whole: Callable[[str], Path], stage: str) -> None:
    kill_and_resume(stages, stage, whole(stage), list(CASES).index(stage), 1)


def indices_of_this_commit() -> list[int]:
    """Return the moments to kill at: others for each commit, so that time covers them all, and the same if repeated."""
    root = Path(__file__).resolve().parents[2]
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    number = int(head.stdout.strip()[:8] or "0", 16)
    return [1000 + number * SLOW_KILLS % 1_000_000 + kill for kill in range(SLOW_KILLS)]


@pytest.mark.slow
@pytest.mark.parametrize("kill", range(SLOW_KILLS))
@pytest.mark.parametrize("stage", CASES)
def test_a_stage_killed_at_many_moments_is_the_same_run(
    stages: Any, whole: Callable[[str], Path], stage: str, kill: int
) -> None:
    index = indices_of_this_commit()[kill]
    kill_and_resume(stages, stage, whole(stage), index, 1 + index % 2)


@pytest.mark.soak
@pytest.mark.parametrize("index", range(100, 100 + SOAK_KILLS))
@pytest.mark.parametrize("stage", CASES)
def test_a_stage_killed_at_very_many_moments_is_the_same_run(
    stages: Any, whole: Callable[[str], Path], stage: str, index: int
) -> None:
    kill_and_resume(stages, stage, whole(stage), index, 1)


@pytest.mark.slow
def test_a_resume_by_hand_from_another_folder_hash_seed_and_tmpdir_is_the_same_run(
    stages: Any, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    """A fresh process, as a user starts it; only one checkpoint is kept, and the parent with it."""
    stage, name = "train_adapter", "by_hand"
    before = stages.run(stage, *CASES[stage], *COMMON, f"name={name}", "steps=4")
    assert before.code == 0, before.output
    assert "[INFO] Starting fresh training (no checkpoint specified)\n" in before.output
    file = f"exp/{name}/checkpoint_4.pt"
    more = (f"name={name}", f"checkpoint.resume_from={file}", "checkpoint.keep_last_n=1")
    environment = {"PYTHONHASHSEED": "7", "TMPDIR": "/dev/shm", "WANDB_MODE": "disabled"}
    done = stages.run_cold(stage, *CASES[stage], *COMMON, *more, cwd=tmp_path, **environment)
    assert done.code == 0, done.output
    lines = [line for line in done.output.splitlines() if line.startswith("[INFO] Res")]
    assert lines == [
        f"[INFO] Resuming from explicitly specified checkpoint: {file}",
        "[INFO] Resuming from step 4",
        "[INFO] Restored model, optimizer, and scheduler states",
    ]
    folder = stages.root / "exp" / name
    assert_same(folder, whole(stage))
    assert [step for step, _ in list_checkpoints(folder)] == [4, 12]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_sigterm_saves_and_prints_a_command_that_resumes(stages: Any, whole: Callable[[str], Path]) -> None:
    stage, folder = "train_adapter", stages.root / "exp/terminated"
    words = (*CASES[stage], *COMMON, f"name={folder.name}", "loader.num_workers=1", "wandb.mode=offline")
    done = stages.kill_when(stages.start(stage, *words), lambda: _rows(folder) >= 5, signal.SIGTERM)
    assert done.code == 143, done.output
    _, command = done.output.split("[WARNING] Stopped by SIGTERM after step ")[1].split("Resume with:\n  ")
    begin, script, *overrides = shlex.split(command.splitlines()[0])[1:]
    assert (begin, script) == ("run", f"stages/{stage}.py")
    step = list_checkpoints(folder)[-1][0]
    assert overrides == [*words, f"checkpoint.resume_from=exp/terminated/checkpoint_{step}.pt"]
    done = stages.run(stage, *overrides)
    assert done.code == 0, done.output
    assert_same(folder, whole(stage))
    assert len({path.name.rsplit("-", 1)[1] for path in (folder / "wandb").glob("offline-run-*")}) == 1
