"""A few held-out utterances to hear and see: which, when, on which scale, and that showing them changes nothing."""

from typing import Any

import numpy as np
import pytest
import torch
from miipher2.tracking.tracker import NoTracker, Picture, Sound, Tracker, start_wandb
from omegaconf import OmegaConf
from torch import Tensor

from miipher2.tracking.samples import Presenter
from miipher2.training.recipe import Batch, Presented
from miipher2.training.stage import make_presenter

RATE_HZ, FRAMES = 24_000, (20, 15)


def tones(rate_hz: int, level: float = 0.3) -> Tensor:
    time = torch.arange(max(FRAMES) * rate_hz // 50) / rate_hz
    return level * torch.sin(2 * torch.pi * torch.tensor([[1000.0], [2000.0]]) * time)


def batch() -> tuple[Batch, list[str]]:
    made = {"clean": tones(16_000), "degraded": tones(16_000, 0.03), "target": tones(RATE_HZ)}
    return made | {"valid_frames": torch.tensor(FRAMES)}, ["a/one.flac", "b/two.flac"]


class Louder:
    """A recipe whose wave and features are another each time."""

    def __init__(self) -> None:
        self.asked = 0

    def present(self, batch: Batch) -> Presented:
        self.asked += 1
        features = torch.zeros(2, max(FRAMES), 6)
        features[:, :, 0] = 3.0
        return Presented({"restored": 0.01 * self.asked * tones(RATE_HZ)}, {"clean": features})


def presenter(steps: int = 12, every: int = 3, times: int = 20) -> tuple[Presenter, list[tuple[int, Any]], Louder]:
    shown: list[tuple[int, Any]] = []
    recipe = Louder()
    make = Presenter(
        recipe,
        batch,
        lambda step, media: shown.append((step, media)),
        sample_rate_hz=RATE_HZ,
        steps=steps,
        every_steps=every,
        times=times,
    )
    return make, shown, recipe


@pytest.mark.parametrize(
    ("steps", "every", "times", "due"),
    [(12, 3, 20, [3, 6, 9, 12]), (12, 3, 2, [6, 12]), (13, 3, 1, [12]), (12, 3, 3, [6, 12]), (2, 3, 5, [])],
)
def test_it_is_shown_evenly_no_more_often_than_asked_and_at_the_last_validation(
    steps: int, every: int, times: int, due: list[int]
) -> None:
    present, shown, recipe = presenter(steps, every, times)
    for step in range(every, steps + 1, every):
        present(step)
    assert [step for step, _ in shown] == due
    assert recipe.asked == len(due), "nothing is computed where nothing is shown"


def test_every_utterance_is_heard_and_seen_without_its_padding() -> None:
    present, shown, _ = presenter()
    present(3)
    media = shown[0][1]
    names = ("clean", "clean_mel", "degraded", "degraded_mel", "restored", "restored_mel", "clean_features")
    assert list(media) == [f"example_{number}/{name}" for number in (1, 2) for name in names]
    for number, frames in enumerate(FRAMES, 1):
        for name, rate_hz in (("clean", RATE_HZ), ("degraded", 16_000), ("restored", RATE_HZ)):
            sound = media[f"example_{number}/{name}"]
            assert isinstance(sound, Sound)
            assert (len(sound.wave), sound.sample_rate_hz) == (frames * rate_hz // 50, rate_hz)
    assert media["example_2/restored"].caption == "b/two.flac, restored"
    np.testing.assert_array_equal(media["example_1/clean"].wave, tones(RATE_HZ)[0].numpy())


def test_pictures_have_low_frequencies_below_and_the_clean_recordings_scale() -> None:
    present, shown, _ = presenter()
    present(3)
    media = shown[0][1]
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


def test_what_is_as_before_is_not_shown_again() -> None:
    present, shown, _ = presenter()
    present(3)
    present(6)
    changed = ["example_1/restored", "example_1/restored_mel", "example_2/restored", "example_2/restored_mel"]
    assert list(shown[1][1]) == changed


def test_without_wandb_nothing_is_made_or_computed(tmp_path: Any) -> None:
    """Disabled, disabled with a W&B run known from a checkpoint, another rank, and no utterance wanted."""

    class Forbidden(Louder):
        def present(self, batch: Batch) -> Presented:
            raise AssertionError("nothing was to be shown")

    class Everything(Forbidden):
        def __getattr__(self, name: str) -> Any:  # the rest of a recipe
            return lambda *_: {}

    settings: dict[str, Any] = {"entity": None, "name": None, "tags": [], "notes": None, "config": {}}
    trackers: list[Tracker | NoTracker] = [NoTracker()]
    for known in (None, {"id": "abc", "name": "first", "project": "restoration"}):
        run = start_wandb(tmp_path, mode="disabled", project="p", **settings, inherited=known)
        trackers.append(
            Tracker(tmp_path, ("loss",), start_step=0, steps=4, history="", wandb_run=run, inherit_wandb=True)
        )
    for tracker in trackers:
        assert not tracker.shows
        tracker.show(1, {"a": Sound(np.zeros(4, np.float32), 16_000, "a")})
        tracker.close(0)
    config = OmegaConf.create({"wandb": {"examples": {"count": 3, "seconds": 1.0, "times": 5}}, "steps": 4})
    for tracker in trackers:
        present = make_presenter(config, Everything(), Forbidden().present, tracker)  # type: ignore[arg-type]
        present(2)
