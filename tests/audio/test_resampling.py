"""Resampling block by block: the values of the whole, at any rate."""

import numpy as np
import pytest
from tiny_weights import wave

from miipher2.audio.resample import resample
from miipher2.audio.stream_resample import Resampler

RATES = [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000]


def in_blocks(values: np.ndarray, from_hz: int, to_hz: int, *ends: int) -> np.ndarray:
    resampler = Resampler(from_hz, to_hz, len(values))
    blocks = [resampler.push(block) for block in np.split(values, ends, axis=1)]
    return np.concatenate([*blocks, resampler.finish()], 1)


@pytest.mark.parametrize("from_hz", RATES)
def test_blocks_give_the_values_of_the_whole_wave(from_hz: int) -> None:
    values = wave(2 * from_hz + 13)
    whole = in_blocks(values[None], from_hz, 16_000)
    np.testing.assert_allclose(in_blocks(values[None], from_hz, 16_000, 1, 17, from_hz), whole, atol=1e-6)
    # torchaudio makes its filter in float32, here it is made in float64: 22,050 Hz differs by -86 dB, most by less.
    expected = resample(values, from_hz, 16_000)
    np.testing.assert_allclose(whole[0, : len(expected)], expected, atol=1e-5)


@pytest.mark.parametrize("from_hz", [*RATES, 44_101, 15_999])
@pytest.mark.parametrize("samples", [1, 2, 1_000])
def test_the_length_is_exact(from_hz: int, samples: int) -> None:
    made = in_blocks(wave(2 * samples).reshape(2, samples), from_hz, 16_000, samples // 2)
    assert made.shape == (2, -(-samples * 16_000 // from_hz))


@pytest.mark.parametrize("from_hz", [44_101, 15_999])
def test_a_rate_without_a_small_ratio_keeps_a_tone(from_hz: int) -> None:
    """Its table of phases would take gigabytes."""
    tone = np.sin(2 * np.pi * 440 * np.arange(3 * from_hz) / from_hz).astype(np.float32)[None]
    whole = in_blocks(tone, from_hz, 16_000)
    expected = np.sin(2 * np.pi * 440 * np.arange(whole.shape[1]) / 16_000)
    np.testing.assert_allclose(whole[0, 1_000:-1_000], expected[1_000:-1_000], atol=1e-5)
    np.testing.assert_allclose(in_blocks(tone, from_hz, 16_000, 7, from_hz), whole, atol=1e-6)
