"""Checkpoints of a few bytes, and the `miipher2` command as a function."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from miipher2 import rng
from miipher2.cli.main import main
from miipher2.training import checkpoint
from miipher2.training.checkpoint import Checkpoint
from miipher2.training.summary import json_path

CONFIG = {"name": "tiny", "steps": 40, "log_interval": 1, "optim": {"lr": 0.1, "betas": [0.9, 0.99]}}


def make_checkpoint(step: int, **changed: Any) -> Checkpoint:
    """Return a small checkpoint; keywords replace entries."""
    weight = torch.arange(6.0).reshape(2, 3) + step
    entries: dict[str, Any] = {
        "stage": "train_adapter",
        "step": step,
        "run_id": "run-1",
        "model": {"weight": weight, "bias": torch.zeros(3)},
        "optimizers": {"adapter": {"weight": {"exp_avg": weight / 7, "step": torch.tensor(float(step))}}},
        "schedules": {"adapter": {"updates": step}},
        "ema": {},
        "rng": {"0": rng.get_state()},
        "config": CONFIG,
        "wandb": None,
        "parents": [],
        "history": "step,tiny/loss,valid/loss\n" + "".join(f"{n},{9 - n},{8 - n}\n" for n in range(1, step + 1)),
        "best": {"metric": "valid/loss", "value": 8.0 - step, "step": step},
        "upstream_digests": {"encoder": "e" * 64},
        "data_sha256": "d" * 64,
        "environment": {"torch": "2", "threads": "1"},
    }
    return Checkpoint(**(entries | changed))


def write(folder: Path, content: Checkpoint, *, saved_at: str | None = None, **about: Any) -> Path:
    """Save a checkpoint as a run does, with its history.csv; the JSON then says that it was saved at `saved_at`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "history.csv").write_text(content.history)
    path = checkpoint.save(folder, content, {"code": {"commit": "abc", "dirty": False}} | about)
    summary = json.loads(json_path(path).read_text())
    summary["saved_at"] = saved_at or f"2026-01-02T03:04:{content.step % 60:02d}+00:00"
    json_path(path).write_text(json.dumps(summary))
    return path


@dataclass(frozen=True)
class Result:
    """What a command returned and printed."""

    code: int
    out: str
    error: str


class Command:
    """Runs `miipher2` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *words: object) -> Result:
        """Run it with these words."""
        self.capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as ended:
            code = int(str(ended.code))
        captured = self.capsys.readouterr()
        return Result(code, captured.out, captured.err)


def flip(path: Path) -> None:
    """Flip a bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
