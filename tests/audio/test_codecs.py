"""Codecs neither delay nor lengthen what they encode."""

import numpy as np
import pytest
from speech_like import speech_like

from miipher2.audio.codecs import BIT_RATE_CODECS, apply_codec
from miipher2.audio.decode import AudioError
from miipher2.config.schema_data import CODECS

RATE_HZ = 16_000


def delay_samples(before: np.ndarray, after: np.ndarray) -> int:
    """Return by how many samples `after` lags, by the peak of the cross-correlation."""
    size = 2 * max(len(before), len(after))
    correlation = np.fft.irfft(np.fft.rfft(after, size) * np.conj(np.fft.rfft(before, size)), size)
    lag = int(correlation.argmax())
    return lag if lag < size // 2 else lag - size


@pytest.mark.parametrize("codec", CODECS)
def test_codec_keeps_length_and_position_within_one_sample(codec: str) -> None:
    wave = speech_like()
    bit_rates = (8, 16, 24, 32, 40, 64, 96) if codec in BIT_RATE_CODECS else (None,)
    for bit_rate in bit_rates:
        coded = apply_codec(wave, RATE_HZ, codec, bit_rate)
        assert coded.shape == wave.shape
        assert coded.dtype == np.float32
        assert abs(delay_samples(wave, coded)) <= 1, f"{codec} at {bit_rate} kbit/s"
        assert not np.array_equal(coded, wave)
        assert np.corrcoef(wave, coded)[0, 1] > 0.5  # noise is hard to encode; out of position it would be 0


@pytest.mark.parametrize("codec", CODECS)
def test_codec_takes_any_length_and_leaves_its_input_unchanged(codec: str) -> None:
    for samples in (0, 1, 7, 321, 4001):
        wave = speech_like(4001)[:samples]
        before = wave.copy()
        coded = apply_codec(wave, RATE_HZ, codec, 32)
        assert coded.shape == wave.shape
        assert np.isfinite(coded).all()
        np.testing.assert_array_equal(wave, before)


def test_codec_gives_the_same_bits_twice() -> None:
    wave = speech_like()
    for codec in CODECS:
        once, again = (apply_codec(wave, RATE_HZ, codec, 24) for _ in range(2))
        np.testing.assert_array_equal(once, again)


def test_unknown_codec_and_missing_bit_rate_are_errors() -> None:
    with pytest.raises(AudioError, match="codec 'amr': should be one of mp3"):
        apply_codec(speech_like(), RATE_HZ, "amr", 12)
    with pytest.raises(AudioError, match=r"opus.*bit rate"):
        apply_codec(speech_like(), RATE_HZ, "opus")
