"""A few held-out utterances to hear and to see while training goes on. Knows arrays; neither files nor W&B."""

import math
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from miipher2.losses import MelDistance
from miipher2.tracking import Picture, Sound
from miipher2.training.recipe import Batch, Presenting

CLEAN_RATE_HZ, FRAMES_PER_SECOND = 16_000, 50
FLOOR_DB, FEATURE_DEVIATIONS, PIXELS = 75.0, 3.0, 2  # of a picture's scale; pixels to a band and a step
NEPER_DB = 20.0 / math.log(10.0)


class Presenter:
    """Shows a recipe's work on always the same utterances, at some of the validations.

    Args:
        batch: gives the examples and their names; asked once, when they are first shown.
        show: takes sounds and pictures of a step, by name.
        steps, every_steps: of the run, and from one validation to the next.
        times: at how many validations at most; they are evenly spaced, and the last is among them.
    """

    def __init__(
        self,
        recipe: Presenting,
        batch: Callable[[], tuple[Batch, list[str]]],
        show: Callable[[int, Mapping[str, Sound | Picture]], None],
        *,
        sample_rate_hz: int,
        steps: int,
        every_steps: int,
        times: int,
    ) -> None:
        self.recipe, self._make, self.show = recipe, batch, show
        self.sample_rate_hz, self.every_steps = sample_rate_hz, every_steps
        self.last = steps // every_steps
        self.spacing = math.ceil(self.last / times)
        self.mel = MelDistance(sample_rate_hz)
        self.batch: Batch | None = None
        self.names: list[str] = []
        self.shown: dict[str, Sound | Picture] = {}

    def __call__(self, step: int) -> None:
        """Show the utterances where the step is due; what is as it was shown before is not shown again."""
        if (self.last - step // self.every_steps) % self.spacing:
            return
        if self.batch is None:
            self.batch, self.names = self._make()
        media = self._media(self.batch)
        self.show(step, {name: each for name, each in media.items() if not _same(each, self.shown.get(name))})
        self.shown = media

    def _media(self, batch: Batch) -> dict[str, Sound | Picture]:
        made = self.recipe.present(batch)
        waves = {"clean": (batch["target"], self.sample_rate_hz), "degraded": (batch["degraded"], CLEAN_RATE_HZ)}
        waves |= {name: (wave, self.sample_rate_hz) for name, wave in made.waves.items()}
        media: dict[str, Sound | Picture] = {}
        for number, utterance in enumerate(self.names):
            frames = int(batch["valid_frames"][number])
            peak = None
            for name, (batch_of_waves, rate_hz) in waves.items():
                wave = batch_of_waves[number, : frames * rate_hz // FRAMES_PER_SECOND].float().cpu()
                key, caption = f"example_{number + 1}/{name}", f"{utterance}, {name}"
                media[key] = Sound(wave.numpy(), rate_hz, caption)
                decibels = self._mel_db(wave, rate_hz)
                peak = decibels.max() if peak is None else peak  # the clean wave's: one scale for all
                media[f"{key}_mel"] = Picture(_coloured(1 + (decibels - peak) / FLOOR_DB, "magma"), caption)
            for name, features in made.features.items():
                picture = _coloured((features[number, :frames].float().cpu().T / FEATURE_DEVIATIONS + 1) / 2, "RdBu_r")
                media[f"example_{number + 1}/{name}_features"] = Picture(picture, f"{utterance}, {name} features")
        return media

    def _mel_db(self, wave: Float[Tensor, "time"], rate_hz: int) -> Float[Tensor, "mel step"]:
        mel = self.mel if rate_hz == self.sample_rate_hz else MelDistance(rate_hz)
        return NEPER_DB * mel.log_mel(wave[None])[0].T.flip(0)


def _coloured(shares: Float[Tensor, "row column"], scale: str) -> UInt8[np.ndarray, "pixel_row pixel_column 3"]:
    """Return a picture of values from 0 to 1; those beyond have the colours of the ends."""
    import matplotlib  # half a second of start-up that only runs with W&B pay

    colours = matplotlib.colormaps[scale](shares.clamp(0, 1).numpy(), bytes=True)[:, :, :3]
    return np.ascontiguousarray(colours.repeat(PIXELS, 0).repeat(PIXELS, 1))


def _same(one: Sound | Picture, other: Sound | Picture | None) -> bool:
    if isinstance(one, Sound):
        return isinstance(other, Sound) and np.array_equal(one.wave, other.wave)
    return isinstance(other, Picture) and np.array_equal(one.pixels, other.pixels)
