"""Validation utterances are logged to W&B evenly, without padding, on one colour scale, and change nothing."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import Tiny
from torch import Tensor

from miipher2.tracking.samples import SampleLogger
from miipher2.tracking.wandb_run import AudioClip, Picture
from miipher2.training.recipe import Batch

RATE_HZ, FRAMES = 24_000, (20, 15)


def tones(rate_hz: int, level: float = 0.3) -> Tensor:
    time = torch.arange(max(FRAMES) * rate_hz // 50) / rate_hz
    return level * torch.sin(2 * torch.pi * torch.tensor([[1000.0], [2000.0]]) * time)


def named_batch() -> tuple[Batch, list[str]]:
    waves = {"clean": tones(16_000), "degraded": tones(16_000, 0.03), "target": tones(RATE_HZ)}
    return waves | {"valid_frames": torch.tensor(FRAMES)}, ["a/one.flac", "b/two.flac"]


class LouderEachTime:
    """A recipe whose waveform differs at each call, and whose features do not."""

    def __init__(self) -> None:
        self.calls = 0

    def samples(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        self.calls += 1
        features = torch.zeros(2, max(FRAMES), 6)
        features[:, :, 0] = 3.0
        return {"restored": 0.01 * self.calls * tones(RATE_HZ)}, {"clean": features}


def make_logger(
    steps: int = 12, every: int = 3, times: int = 20
) -> tuple[SampleLogger, list[tuple[int, Any]], LouderEachTime]:
    logged: list[tuple[int, Any]] = []
    recipe = LouderEachTime()
    logger = SampleLogger(
        recipe.samples,
        named_batch,
        lambda step, media: logged.append((step, media)),
        sample_rate_hz=RATE_HZ,
        steps=steps,
        every_steps=every,
        times=times,
    )
    return logger, logged, recipe


@pytest.mark.parametrize(
    ("steps", "every", "times", "due"),
    [(12, 3, 20, [3, 6, 9, 12]), (12, 3, 2, [6, 12]), (13, 3, 1, [12]), (12, 3, 3, [6, 12]), (2, 3, 5, [])],
)
def test_samples_are_logged_evenly_and_at_the_last_validation(
    steps: int, every: int, times: int, due: list[int]
) -> None:
    log_samples, logged, recipe = make_logger(steps, every, times)
    for step in range(every, steps + 1, every):
        log_samples(step)
    assert [step for step, _ in logged] == due
    assert recipe.calls == len(due), "nothing is computed where nothing is logged"


def test_every_utterance_is_logged_without_its_padding() -> None:
    log_samples, logged, _ = make_logger()
    log_samples(3)
    media = logged[0][1]
    names = ("clean", "clean_mel", "degraded", "degraded_mel", "restored", "restored_mel", "clean_features")
    assert list(media) == [f"example_{number}/{name}" for number in (1, 2) for name in names]
    for number, frames in enumerate(FRAMES, 1):
        for name, rate_hz in (("clean", RATE_HZ), ("degraded", 16_000), ("restored", RATE_HZ)):
            clip = media[f"example_{number}/{name}"]
            assert isinstance(clip, AudioClip)
            assert (len(clip.wave), clip.sample_rate_hz) == (frames * rate_hz // 50, rate_hz)
    assert media["example_2/restored"].caption == "b/two.flac, restored"
    np.testing.assert_array_equal(media["example_1/clean"].wave, tones(RATE_HZ)[0].numpy())


def test_pictures_have_low_frequencies_at_the_bottom_and_the_clean_recordings_scale() -> None:
    log_samples, logged, _ = make_logger()
    log_samples(3)
    media = logged[0][1]
    brightness = {
        name: media[name].pixels.astype(int).sum(2)
        for name in ("example_1/clean_mel", "example_2/clean_mel", "example_1/degraded_mel")
    }
    row = {name: int(values.sum(1).argmax()) for name, values in brightness.items()}
    assert row["example_1/clean_mel"] > row["example_2/clean_mel"] > 0  # 1 kHz lies below 2 kHz
    assert brightness["example_1/clean_mel"].max() > brightness["example_1/degraded_mel"].max()
    features = media["example_1/clean_features"]
    assert isinstance(features, Picture)
    assert features.pixels.shape == (12, 2 * FRAMES[0], 3)
    high, middle = features.pixels[0, 0].astype(int), features.pixels[-1, 0].astype(int)
    assert high[0] > high[2], "three deviations above the mean are red"
    assert np.ptp(middle) < 10, "the mean is white"


def test_samples_that_did_not_change_are_not_logged_again() -> None:
    log_samples, logged, _ = make_logger()
    log_samples(3)
    log_samples(6)
    changed = ["example_1/restored", "example_1/restored_mel", "example_2/restored", "example_2/restored_mel"]
    assert list(logged[1][1]) == changed


@pytest.mark.parametrize("inherited", [None, {"id": "abc", "name": "first", "project": "restoration"}])
def test_without_wandb_no_sample_is_computed(tmp_path: Any, inherited: dict[str, str] | None) -> None:
    training = Tiny(tmp_path / "run", steps=4)()
    training.sample_batch = named_batch
    training.config.wandb.examples.count = 3
    training.recipe.samples = LouderEachTime().samples  # type: ignore[attr-defined]
    after_validation = training._sample_logger(None)
    after_validation(3)
    assert not isinstance(after_validation, SampleLogger)
