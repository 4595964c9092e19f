"""Checkpoints of a few bytes, and the `miipher2` command as a function."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from miipher2 import rng
from miipher2.cli.main import main
from miipher2.training import checkpoint
from miipher2.training.checkpoint import digest_of

CONFIG = {"name": "tiny", "steps": 40, "log_interval": 1, "optim": {"lr": 0.1, "betas": [0.9, 0.99]}}


def content_of(step: int, **changed: Any) -> dict[str, Any]:
    """Return what a checkpoint at a step holds; keywords replace entries."""
    weight = torch.arange(6.0).reshape(2, 3) + step
    history = "step,tiny/loss,valid/loss\n" + "".join(f"{row},{9 - row},{8 - row}\n" for row in range(1, step + 1))
    plain: dict[str, Any] = {
        "format": checkpoint.FORMAT,
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
        "history": history,
        "best": {"metric": "valid/loss", "value": 8.0 - step, "step": step},
        "upstream_digests": {"encoder": "e" * 64},
        "data_sha256": "d" * 64,
        "environment": {"torch": "2", "threads": "1"},
    }
    return plain | changed


def write(folder: Path, content: dict[str, Any], **about: Any) -> Path:
    """Save a checkpoint as a run does, and its history.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = ("model", "optimizers", "ema", "rng", "history")
    summary = {key: value for key, value in content.items() if key not in tensors}
    summary |= {"rng_sha256": {"0": {name: digest_of(value) for name, value in content["rng"]["0"].items()}}}
    summary |= {"saved_at": f"2026-01-02T03:04:{content['step']:02d}+00:00", "code": {"commit": "abc", "dirty": False}}
    (folder / "history.csv").write_text(content["history"])
    return checkpoint.save(folder, content, summary | about)


@dataclass(frozen=True)
class Said:
    """What a command returned and printed."""

    code: int
    out: str
    error: str


class Command:
    """Runs `miipher2` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *words: object) -> Said:
        """Run it with these words."""
        self.capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as ended:
            code = int(str(ended.code))
        captured = self.capsys.readouterr()
        return Said(code, captured.out, captured.err)


def flip(path: Path) -> None:
    """Flip a bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
