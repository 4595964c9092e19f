"""Resampling: exact lengths, tones kept and aliases removed; block by block, the same samples."""

import numpy as np
import pytest

from miipher2.audio.resample import StreamResampler, resample
from miipher2.rng import stream

RATES = [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000]
ODD_RATES = [44_101, 15_999]  # without a small ratio to 16 kHz


def tone(hz: float, rate_hz: int, samples: int) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(samples) / rate_hz).astype(np.float32)


def noise(channels: int, samples: int) -> np.ndarray:
    return stream(0, "resample").uniform(-0.9, 0.9, (channels, samples)).astype(np.float32)


def in_blocks(wave: np.ndarray, from_hz: int, to_hz: int, *cuts: int) -> np.ndarray:
    resampler = StreamResampler(from_hz, to_hz, len(wave))
    blocks = [resampler.push(block) for block in np.split(wave, cuts, axis=1)]
    return np.concatenate([*blocks, resampler.finish()], 1)


@pytest.mark.parametrize("rates", [(16000, 8000), (44100, 16000), (16000, 24000), (48000, 22050)])
def test_resampled_length_is_rounded(rates: tuple[int, int]) -> None:
    from_hz, to_hz = rates
    for samples in (0, 1, 2, 999, 16001):
        assert len(resample(np.zeros(samples, np.float32), from_hz, to_hz)) == round(samples * to_hz / from_hz)


def test_resampling_keeps_a_tone_and_removes_aliases() -> None:
    low, high = tone(1000, 16_000, 16_000), tone(6000, 16_000, 16_000)
    np.testing.assert_allclose(
        resample(resample(low, 16_000, 24_000), 24_000, 16_000)[500:-500], low[500:-500], atol=1e-3
    )
    assert np.abs(resample(high, 16_000, 8_000)[500:-500]).max() < 1e-3


@pytest.mark.parametrize("from_hz", [*RATES, *ODD_RATES])
def test_blocks_of_any_length_give_the_same_samples(from_hz: int) -> None:
    wave = noise(1, 2 * from_hz + 13)
    whole = in_blocks(wave, from_hz, 16_000)
    for cuts in ((1, 17, from_hz), range(997, wave.shape[1], 997)):
        np.testing.assert_allclose(in_blocks(wave, from_hz, 16_000, *cuts), whole, atol=1e-6)


@pytest.mark.parametrize("from_hz", [*RATES, *ODD_RATES])
@pytest.mark.parametrize("samples", [1, 2, 1_000])
def test_streamed_length_is_rounded_up(from_hz: int, samples: int) -> None:
    resampled = in_blocks(noise(2, samples), from_hz, 16_000, samples // 2)
    assert resampled.shape == (2, -(-samples * 16_000 // from_hz))


@pytest.mark.parametrize("from_hz", RATES)
def test_streamed_samples_are_those_of_training(from_hz: int) -> None:
    wave = noise(1, 2 * from_hz + 13)
    expected = resample(wave[0], from_hz, 16_000)
    # torchaudio computes its filter in float32, we in float64: 22,050 Hz differs most, by -86 dB.
    np.testing.assert_allclose(in_blocks(wave, from_hz, 16_000)[0, : len(expected)], expected, atol=5e-5)


@pytest.mark.parametrize("from_hz", [22_050, 44_100, 48_000, 96_000, 44_101])
def test_streaming_keeps_a_tone_and_removes_aliases(from_hz: int) -> None:
    kept = in_blocks(tone(440, from_hz, 2 * from_hz)[None], from_hz, 16_000)[0]
    np.testing.assert_allclose(kept[1_000:-1_000], tone(440, 16_000, len(kept))[1_000:-1_000], atol=1e-5)
    removed = in_blocks(tone(8_200, from_hz, 2 * from_hz)[None], from_hz, 16_000)[0]
    assert np.abs(removed[4_000:-4_000]).max() < 1e-5
