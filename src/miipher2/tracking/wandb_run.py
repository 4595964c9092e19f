"""The W&B run of a training run. Offline by default: no login, no network."""

import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from miipher2.audio.io import write_audio
from miipher2.config.schema import WandbConfig


@dataclass(frozen=True)
class AudioClip:
    """A waveform to listen to."""

    wave: Float[np.ndarray, "time"]
    sample_rate_hz: int
    caption: str


@dataclass(frozen=True)
class Picture:
    """An image, top row first."""

    pixels: UInt8[np.ndarray, "row column 3"]
    caption: str


Media = Mapping[str, AudioClip | Picture]


class WandbRun:
    """Logs metrics and media on a step axis of their own, so that a resume from an older checkpoint drops no point."""

    def __init__(self, run: Any) -> None:
        self._run = run
        run.define_metric("step")
        run.define_metric("*", step_metric="step")

    @property
    def identity(self) -> dict[str, str]:
        """Id, name and project, for the checkpoint."""
        return {"id": self._run.id, "name": self._run.name or "", "project": self._run.project}

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Log the metrics of one step, if there are any."""
        if metrics:
            self._run.log({"step": step, **metrics})

    def log_media(self, step: int, media: Media) -> None:
        """Log audio and pictures by name."""
        if not media:
            return
        import wandb

        # W&B's own temporary folder is made on import and may be gone by now on a host that tidies up.
        with tempfile.TemporaryDirectory() as folder:
            objects: dict[str, Any] = {}
            for number, (name, each) in enumerate(media.items()):
                if isinstance(each, AudioClip):
                    path = Path(folder) / f"{number}.wav"
                    write_audio(path, np.asarray(each.wave, np.float32), each.sample_rate_hz)
                    objects[name] = wandb.Audio(str(path), caption=each.caption)
                else:
                    path = Path(folder) / f"{number}.png"
                    Image.fromarray(each.pixels).save(path)
                    objects[name] = wandb.Image(str(path), caption=each.caption)
            self._run.log({"step": step, **objects})

    def close(self, exit_code: int) -> None:
        """Finish the W&B run."""
        self._run.finish(exit_code=exit_code)


def start_wandb(
    folder: Path, config: WandbConfig, run_config: dict[str, Any], inherited: dict[str, str] | None
) -> WandbRun | None:
    """Start a W&B run, or continue the one identified by `inherited` (id, name, project); None when disabled."""
    if config.mode == "disabled":
        return None
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb  # a second of start-up that only runs with W&B pay

    name = config.name or folder.name
    identity = inherited or {"id": secrets.token_hex(4), "name": name, "project": config.project}
    run = wandb.init(
        dir=str(folder),
        mode=config.mode,  # type: ignore[arg-type]
        entity=config.entity,
        id=identity["id"],
        name=identity["name"],
        project=identity["project"],
        resume="allow" if config.mode == "online" else None,
        tags=config.tags,
        notes=config.notes,
        config=run_config,
        save_code=False,
        settings=wandb.Settings(console="off", disable_git=True, x_disable_stats=True, x_disable_meta=True),
    )
    return WandbRun(run)
