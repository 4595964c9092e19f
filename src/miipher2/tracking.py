"""Where metrics go: history.csv always, a progress bar or plain lines, W&B when asked. Only this file knows W&B."""

import csv
import io
import logging
import os
import secrets
import sys
import tempfile
import time
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from tqdm import tqdm

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sound:
    """A wave to hear."""

    wave: Float[np.ndarray, "time"]
    sample_rate_hz: int
    caption: str

    def write(self, path: Path) -> None:
        """Write a WAV file of 16 bits; what passes full scale is clipped."""
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(self.sample_rate_hz)
            file.writeframes(np.round(32_767 * np.clip(self.wave, -1.0, 1.0)).astype("<i2").tobytes())


@dataclass(frozen=True)
class Picture:
    """A picture to see, top row first."""

    pixels: UInt8[np.ndarray, "row column 3"]
    caption: str

    def write(self, path: Path) -> None:
        """Write a PNG file."""
        Image.fromarray(self.pixels).save(path)


class NoTracker:
    """Records nothing: what the ranks beside rank 0 have."""

    shows = False

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Do nothing."""

    def show(self, step: int, media: Mapping[str, Sound | Picture]) -> None:
        """Do nothing."""

    def history(self) -> str:
        """Return nothing."""
        return ""

    def identity(self) -> None:
        """Return nothing."""

    def close(self, exit_code: int) -> None:
        """Do nothing."""


class Tracker:
    """Records the metrics of a run.

    Args:
        columns: names of all metrics, in the order of history.csv.
        history: text of history.csv up to the step resumed from, or "" on a fresh start.
        wandb_run: what `start_wandb` returned.
        inherit_wandb: whether a resumed run goes on in this W&B run.
    """

    def __init__(
        self,
        folder: Path,
        columns: tuple[str, ...],
        *,
        start_step: int,
        steps: int,
        history: str,
        wandb_run: Any,
        inherit_wandb: bool,
    ) -> None:
        self.columns = columns
        self.path = folder / "history.csv"
        self._text = io.StringIO()
        self._text.write(history or ",".join(("step", *columns)) + "\n")
        self._write_history()
        self._file = self.path.open("a")
        self._wandb = wandb_run
        self._inherit_wandb = inherit_wandb
        self._start = (start_step, time.monotonic())
        self._steps = steps
        self._bar = tqdm(
            total=steps, initial=start_step, unit="step", dynamic_ncols=True, disable=not sys.stdout.isatty()
        )

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record one step's metrics; without any, only move the bar."""
        self._bar.update(step - self._bar.n)
        if not metrics:
            return
        if unknown := sorted(set(metrics) - set(self.columns)):
            raise AssertionError(f"metrics {unknown} are not among the recipe's metric_names")
        row = io.StringIO()
        cells = [f"{metrics[name]:.9g}" if name in metrics else "" for name in self.columns]
        csv.writer(row, lineterminator="\n").writerow([step, *cells])
        self._text.write(row.getvalue())
        self._file.write(row.getvalue())
        self._file.flush()
        if self._wandb is not None:
            self._wandb.log({"step": step, **metrics})
        self._show(step, metrics)

    @property
    def shows(self) -> bool:
        """Whether there is a W&B run that takes sounds and pictures."""
        return self._wandb is not None and not isinstance(self._wandb, _Dormant)

    def show(self, step: int, media: Mapping[str, Sound | Picture]) -> None:
        """Give sounds and pictures to W&B, on its own step axis as the metrics are; nothing else keeps them."""
        if not self.shows or not media:
            return
        import wandb

        # Files of our own: W&B keeps one temporary folder from its import on, which a host that tidies up takes away.
        with tempfile.TemporaryDirectory() as folder:
            made: dict[str, Any] = {}
            for number, (name, each) in enumerate(media.items()):
                path = Path(folder) / f"{number}.{'wav' if isinstance(each, Sound) else 'png'}"
                each.write(path)
                kind = wandb.Audio if isinstance(each, Sound) else wandb.Image
                made[name] = kind(str(path), caption=each.caption)
            self._wandb.log({"step": step, **made})

    def history(self) -> str:
        """Return the text of history.csv so far."""
        return self._text.getvalue()

    def identity(self) -> dict[str, str] | None:
        """Return the W&B run's id, name and project for the checkpoint, or None."""
        if self._wandb is None or not self._inherit_wandb:
            return None
        return {"id": self._wandb.id, "name": self._wandb.name or "", "project": self._wandb.project}

    def close(self, exit_code: int) -> None:
        """End the bar, the file and the W&B run."""
        self._bar.close()
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=exit_code)

    def _show(self, step: int, metrics: dict[str, float]) -> None:
        short = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        if not self._bar.disable:
            self._bar.set_postfix_str(short)
            return
        start_step, start = self._start
        rate = (step - start_step) / max(1e-9, time.monotonic() - start)
        left = (self._steps - step) / max(1e-9, rate)
        log.info("step %d/%d  %s  %.2f steps/s  ETA %d:%02d", step, self._steps, short, rate, left // 60, left % 60)

    def _write_history(self) -> None:
        temporary = self.path.with_name(".history.csv.tmp")
        temporary.write_text(self.history())
        temporary.replace(self.path)


def start_wandb(
    folder: Path,
    *,
    mode: str,
    project: str,
    entity: str | None,
    name: str | None,
    tags: list[str],
    notes: str | None,
    config: dict[str, Any],
    inherited: dict[str, str] | None,
) -> Any:
    """Start a W&B run, or go on with the one whose id, name and project are `inherited`.

    When disabled, return None, or where a run was inherited what keeps its identity for a later resume.

    Offline needs no login and no network; `wandb sync` uploads later. All metrics hang on their own `step`, so that a
    resume from an older checkpoint drops no point.
    """
    if mode == "disabled":
        return None if inherited is None else _Dormant(**inherited)
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb  # a second of start-up that only runs with W&B pay

    known = inherited or {"id": secrets.token_hex(4), "name": name or folder.name, "project": project}
    run = wandb.init(
        dir=str(folder),
        mode=mode,  # type: ignore[arg-type]
        entity=entity,
        id=known["id"],
        name=known["name"],
        project=known["project"],
        resume="allow" if mode == "online" else None,
        tags=tags,
        notes=notes,
        config=config,
        save_code=False,
        settings=wandb.Settings(console="off", disable_git=True, x_disable_stats=True, x_disable_meta=True),
    )
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    return run


@dataclass(frozen=True)
class _Dormant:
    """A W&B run that this process does not log to, and that a later resume may go on with."""

    id: str
    name: str
    project: str

    def log(self, metrics: dict[str, int | float]) -> None:
        """Log nothing."""

    def finish(self, exit_code: int) -> None:
        """End nothing."""
