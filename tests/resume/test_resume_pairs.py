"""Training on recorded pairs by the real stages: resumed it is the same run, and other recordings are named."""

from pathlib import Path
from typing import Any

from recorded_pairs import write_pairs

from miipher2.audio.io import read_audio, write_audio
from miipher2.training.checkpoint import load

COMMON = (
    "--config-name=adapter_mini",
    "steps=4",
    "batch_size=2",
    "validation_batches=1",
    "data.crop_seconds=0.4",
    "validation_interval=2",
    "checkpoint.save_interval=2",
    "wandb.mode=disabled",
    "runtime.threads=1",
    "data.prepared=data/prepared/pairs",
)


def prepare(stages: Any, source: Path) -> str:
    """Run the stage prepare_data and return what it printed."""
    done = stages.run("prepare_data", "--config-name=pairs", f"source={source}")
    assert done.code == 0, done.output
    return str(done.output)


def test_a_run_on_pairs_resumes_as_the_same_run_and_names_other_recordings(stages: Any, tmp_path: Path) -> None:
    write_pairs(tmp_path, 8)
    (tmp_path / "clean/alone.wav").write_bytes((tmp_path / "degraded/a/00.wav").read_bytes())
    printed = prepare(stages, tmp_path)
    assert "Pairs left out: 1 refused (1 without a partner)\n  alone: no degraded recording" in printed
    assert "refused: {'without a partner': 1}\n" in printed
    whole = stages.run("train_adapter", *COMMON, "name=pairs")
    assert whole.code == 0, whole.output
    folder, resumed = stages.root / "exp/pairs", stages.root / "exp/pairs_resumed"
    resume = f"checkpoint.resume_from={folder / 'checkpoint_2.pt'}"
    done = stages.run("train_adapter", *COMMON, "name=pairs_resumed", "loader.num_workers=2", resume)
    assert done.code == 0, done.output
    assert "WARNING" not in done.output
    final = "published/final.safetensors"
    assert (resumed / final).read_bytes() == (folder / final).read_bytes()

    path = tmp_path / "degraded/a/00.wav"
    wave, rate_hz = read_audio(path)
    write_audio(path, 0.5 * wave, rate_hz)
    prepare(stages, tmp_path)
    done = stages.run("train_adapter", *COMMON, "name=pairs_other", resume)
    assert done.code == 0, done.output
    assert "  - data_sha256: " in done.output
    checkpoints = (load(each / "checkpoint_4.pt")[0] for each in (resumed, stages.root / "exp/pairs_other"))
    assert len({checkpoint.data_sha256 for checkpoint in checkpoints}) == 2
