"""A restored channel has the level of the speech in its input, and never clips."""

from pathlib import Path

import numpy as np
import pytest
from speech_like import speech_like
from tiny_weights import load, publish_all

from miipher2.audio.io import write_audio
from miipher2.audio.levels import LevelMeter, active_level_db, frame_energies, speech_gain
from miipher2.audio.stream import Recording
from miipher2.inference.batch_job import Job
from miipher2.inference.files import Task
from miipher2.inference.restorer import Restorer
from miipher2.rng import stream

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def restorer(tmp_path_factory: pytest.TempPathFactory) -> Restorer:
    root = tmp_path_factory.mktemp("weights")
    publish_all(root, "hubert")
    return load(root, chunk_seconds=0.5)


def level_db(wave: np.ndarray) -> float:
    return active_level_db(frame_energies(wave), len(wave))


def at_level(wave: np.ndarray, level: float) -> np.ndarray:
    return (wave * 10 ** ((level - level_db(wave)) / 20)).astype(np.float32)


@pytest.mark.parametrize("level", [-75.0, -50.0, -26.0])
def test_a_quiet_recording_stays_quiet(restorer: Restorer, level: float) -> None:
    wave = at_level(speech_like(3 * RATE_HZ), level)
    powers = restorer(wave, RATE_HZ)
    # The tiny model's output is active where the input pauses, too.
    assert level_db(powers) == pytest.approx(level, abs=10.5)
    assert level_db(powers) < level + 1


def test_gain_follows_the_input_to_the_decibel(restorer: Restorer) -> None:
    wave = at_level(speech_like(2 * RATE_HZ), -30.0)
    loud = level_db(restorer(wave, RATE_HZ))
    for change in (-20.0, -40.0):
        assert level_db(restorer(at_level(wave, -30.0 + change), RATE_HZ)) == pytest.approx(loud + change, abs=0.1)


def test_channels_keep_their_distance_in_memory_and_in_a_file(restorer: Restorer, tmp_path: Path) -> None:
    channels = np.stack([at_level(speech_like(2 * RATE_HZ, seed), level) for seed, level in ((1, -25.0), (1, -75.0))])
    restored = restorer(channels, RATE_HZ)
    assert level_db(restored[0]) - level_db(restored[1]) == pytest.approx(50.0, abs=0.2)
    write_audio(tmp_path / "in.wav", channels, RATE_HZ, "FLOAT")
    outcome = Job(restorer, None).run([Task(tmp_path / "in.wav", tmp_path / "out.wav", "out.wav")])
    assert outcome.failed == []
    written = np.concatenate(list(Recording(tmp_path / "out.wav").blocks()), 1)
    np.testing.assert_allclose(written, restored, atol=2**-15)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".wav"] == []


def test_speech_in_noise_gets_the_level_of_the_speech() -> None:
    speech = at_level(speech_like(10 * RATE_HZ), -30.0)
    noise = at_level(stream(0, "noise").standard_normal(len(speech)).astype(np.float32), -33.0)
    output = LevelMeter(320)
    for block in np.array_split(3 * speech, 7):
        output.add(block)
    before = LevelMeter(320)
    before.add(speech + noise)
    assert speech_gain(before.powers(), output) == pytest.approx(1 / 3, rel=0.05)  # 10 ** (0.2 / 20) is 1.02
    before = LevelMeter(320)
    before.add(noise)  # no speech at all: a tenth of the power
    assert 20 * np.log10(3 * speech_gain(before.powers(), output)) == pytest.approx(-33 - 10 + 30, abs=0.5)


def test_the_result_never_clips_and_silence_stays_silent(restorer: Restorer) -> None:
    square = np.sign(np.sin(np.arange(2 * RATE_HZ) / 20)).astype(np.float32)
    restored = restorer(np.stack([square, np.zeros_like(square)]), RATE_HZ)
    assert 0.5 < np.abs(restored[0]).max() <= 1.0
    assert not restored[1].any()


def test_the_models_own_level_is_there_on_request(restorer: Restorer, tmp_path: Path) -> None:
    publish_all(tmp_path, "hubert")
    own = load(tmp_path, level="model")
    wave = speech_like()
    first, second = own(at_level(wave, -30.0), RATE_HZ), own(at_level(wave, -60.0), RATE_HZ)
    assert level_db(first) == pytest.approx(level_db(second), abs=1.0)
