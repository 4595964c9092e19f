"""A few validation utterances as audio and pictures while training runs. Knows arrays; neither files nor W&B."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from miipher2.audio.spectrogram import log_mel_db
from miipher2.config.schema_data import FRAMES_PER_SECOND, SAMPLE_RATE_HZ
from miipher2.tracking.wandb_run import AudioClip, Media, Picture

Batch = dict[str, Tensor]
FLOOR_DB, FEATURE_DEVIATIONS, PIXELS = 75.0, 3.0, 2  # range of a picture's colours; pixels per band and step


class SampleLogger:
    """Logs what a recipe makes of the same utterances each time, after some of the validations.

    Args:
        samples: gives waveforms and features of a batch by name, as `HasSamples.samples`.
        batch: gives the examples and their names; called once, when they are first needed.
        log_media: takes audio and pictures of a step by name.
        steps, every_steps: of the run, and from one validation to the next.
        times: how many validations at most; they are evenly spaced, and the last is among them.
    """

    def __init__(
        self,
        samples: Callable[[Batch], tuple[dict[str, Tensor], dict[str, Tensor]]],
        batch: Callable[[], tuple[Batch, list[str]]],
        log_media: Callable[[int, Media], None],
        *,
        sample_rate_hz: int,
        steps: int,
        every_steps: int,
        times: int,
    ) -> None:
        self.samples, self._make_batch, self.log_media = samples, batch, log_media
        self.sample_rate_hz, self.every_steps = sample_rate_hz, every_steps
        self.last = steps // every_steps
        self.spacing = math.ceil(self.last / times)
        self.batch: Batch | None = None
        self.names: list[str] = []
        self.logged: Media = {}

    def __call__(self, step: int) -> None:
        """Log the utterances where the step is due, without what is the same as last time."""
        if (self.last - step // self.every_steps) % self.spacing:
            return
        if self.batch is None:
            self.batch, self.names = self._make_batch()
        media = self._media(self.batch)
        self.log_media(step, {name: each for name, each in media.items() if not _is_same(each, self.logged.get(name))})
        self.logged = media

    def _media(self, batch: Batch) -> dict[str, AudioClip | Picture]:
        waves_made, features_made = self.samples(batch)
        waves = {"clean": (batch["target"], self.sample_rate_hz), "degraded": (batch["degraded"], SAMPLE_RATE_HZ)}
        waves |= {name: (wave, self.sample_rate_hz) for name, wave in waves_made.items()}
        media: dict[str, AudioClip | Picture] = {}
        for number, utterance in enumerate(self.names):
            frames = int(batch["valid_frames"][number])
            peak = None
            for name, (batch_of_waves, rate_hz) in waves.items():
                wave = batch_of_waves[number, : frames * rate_hz // FRAMES_PER_SECOND].float().cpu()
                key, caption = f"example_{number + 1}/{name}", f"{utterance}, {name}"
                media[key] = AudioClip(wave.numpy(), rate_hz, caption)
                decibels = log_mel_db(wave, rate_hz).flip(0)
                peak = decibels.max() if peak is None else peak  # the clean wave's: one scale for all
                media[f"{key}_mel"] = Picture(_coloured(1 + (decibels - peak) / FLOOR_DB, "magma"), caption)
            for name, features in features_made.items():
                picture = _coloured((features[number, :frames].float().cpu().T / FEATURE_DEVIATIONS + 1) / 2, "RdBu_r")
                media[f"example_{number + 1}/{name}_features"] = Picture(picture, f"{utterance}, {name} features")
        return media


def _coloured(shares: Float[Tensor, "row column"], scale: str) -> UInt8[np.ndarray, "pixel_row pixel_column 3"]:
    """Return values from 0 to 1 as a picture; values outside get the colours of the ends."""
    import matplotlib  # half a second of start-up that only runs with W&B pay

    colours = matplotlib.colormaps[scale](shares.clamp(0, 1).numpy(), bytes=True)[:, :, :3]
    return np.ascontiguousarray(colours.repeat(PIXELS, 0).repeat(PIXELS, 1))


def _is_same(one: AudioClip | Picture, other: AudioClip | Picture | None) -> bool:
    if isinstance(one, AudioClip):
        return isinstance(other, AudioClip) and np.array_equal(one.wave, other.wave)
    return isinstance(other, Picture) and np.array_equal(one.pixels, other.pixels)
