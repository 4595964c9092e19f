"""Codecs do not shift or lengthen what they code."""

import numpy as np
import pytest

from miipher2.audio import codecs
from miipher2.audio.io import AudioError
from miipher2.rng import stream

RATE_HZ = 16000


def speech_like(samples: int = 16000, seed: int = 0) -> np.ndarray:
    """Return noise between 100 Hz and 3 kHz in bursts: any codec passes it, and its delay shows."""
    spectrum = np.fft.rfft(stream(seed, "wave").standard_normal(samples))
    frequencies = np.fft.rfftfreq(samples, 1 / RATE_HZ)
    wave = np.fft.irfft(spectrum * ((frequencies > 100) & (frequencies < 3000)), samples)
    wave *= np.sin(np.pi * np.arange(samples) / 4000) ** 2
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


def delay_samples(before: np.ndarray, after: np.ndarray) -> int:
    """Return by how many values `after` lags, from the peak of the cross-correlation."""
    size = 2 * max(len(before), len(after))
    correlation = np.fft.irfft(np.fft.rfft(after, size) * np.conj(np.fft.rfft(before, size)), size)
    lag = int(correlation.argmax())
    return lag if lag < size // 2 else lag - size


@pytest.mark.parametrize("codec", codecs.CODECS)
def test_codec_keeps_length_and_place_within_one_sample(codec: str) -> None:
    wave = speech_like()
    rates = (8, 16, 24, 32, 40, 64, 96) if codec in codecs.RATED_CODECS else (None,)
    for rate in rates:
        coded = codecs.through_codec(wave, RATE_HZ, codec, rate)
        assert coded.shape == wave.shape
        assert coded.dtype == np.float32
        assert abs(delay_samples(wave, coded)) <= 1, f"{codec} at {rate} kbit/s"
        assert not np.array_equal(coded, wave)
        assert np.corrcoef(wave, coded)[0, 1] > 0.5  # noise is hard to code; out of place it would be 0


@pytest.mark.parametrize("codec", codecs.CODECS)
def test_codec_takes_any_length_and_leaves_its_input(codec: str) -> None:
    for samples in (0, 1, 7, 321, 4001):
        wave = speech_like(4001)[:samples]
        before = wave.copy()
        coded = codecs.through_codec(wave, RATE_HZ, codec, 32)
        assert coded.shape == wave.shape
        assert np.isfinite(coded).all()
        np.testing.assert_array_equal(wave, before)


def test_codec_gives_the_same_bits_twice() -> None:
    wave = speech_like()
    for codec in codecs.CODECS:
        once, again = (codecs.through_codec(wave, RATE_HZ, codec, 24) for _ in range(2))
        np.testing.assert_array_equal(once, again)


def test_unknown_codec_and_missing_bit_rate_are_named() -> None:
    with pytest.raises(AudioError, match="amr"):
        codecs.through_codec(speech_like(), RATE_HZ, "amr", 12)
    with pytest.raises(AudioError, match=r"opus.*bit rate"):
        codecs.through_codec(speech_like(), RATE_HZ, "opus")
