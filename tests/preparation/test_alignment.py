"""Delays are found to the sample, whatever gain, polarity, length and band; unrelated recordings do not correlate."""

import numpy as np
import pytest
from speech_like import speech_like

from miipher2.preparation.alignment import align
from miipher2.rng import stream

REACH, LEAST = 8000, 0.1


def late(wave: np.ndarray, samples: int) -> np.ndarray:
    """Return a recording that begins so many samples earlier than `wave` (or later, if negative)."""
    before = 0.01 * stream(1, "before").standard_normal(max(0, samples)).astype(np.float32)
    return np.concatenate([before, wave[max(0, -samples) :]])


@pytest.mark.parametrize("seconds", [1.2, 2.0, 7.3])
@pytest.mark.parametrize("samples", [0, 1, -1, 317, -2503, 7999, -7999])
def test_a_delay_of_either_sign_is_found_exactly(samples: int, seconds: float) -> None:
    clean = speech_like(round(seconds * 16_000))
    noise = 0.02 * stream(2, "noise").standard_normal(len(late(clean, samples)))
    found = align(clean, late(clean, samples) + noise, REACH, LEAST)
    assert (found.delay_samples, found.drift_samples) == (samples, 0)
    assert found.correlation > 0.3


def test_gain_polarity_offset_and_band_do_not_matter() -> None:
    clean = speech_like(48_000)
    degraded = late(clean, 1234)
    spectrum = np.fft.rfft(degraded)
    spectrum[: round(300 / 8000 * len(spectrum))] = 0.0
    narrow = np.fft.irfft(spectrum, len(degraded))
    for changed, sign in [(1e-3 * degraded, 1), (-20.0 * degraded, -1), (degraded + 0.2, 1), (-narrow, -1)]:
        found = align(clean, changed, REACH, LEAST)
        assert found.delay_samples == 1234
        assert np.sign(found.correlation) == sign


@pytest.mark.parametrize("longer", ["clean", "degraded"])
def test_a_recording_that_is_longer_at_the_end_is_aligned_by_the_common_part(longer: str) -> None:
    wave = speech_like(96_000)
    clean, degraded = (wave, late(wave, 500)[:50_000]) if longer == "clean" else (wave[:50_000], late(wave, 500))
    found = align(clean, degraded, REACH, LEAST)
    assert found.delay_samples == 500
    assert found.correlation > 0.8


def test_the_correlation_is_over_what_both_have() -> None:
    clean = speech_like(20_000)
    assert align(clean, clean[7_000:], REACH, LEAST).correlation > 0.9  # sqrt(0.65) of the whole
    assert align(speech_like(96_000), speech_like(96_000)[:33_000], 2000, LEAST).correlation > 0.9  # a third


def test_a_few_samples_that_agree_by_chance_are_no_delay() -> None:
    clean = speech_like(6_000)
    found = align(clean, late(clean, 300), REACH, LEAST)
    assert found.delay_samples == 300


def test_a_strong_pitch_that_a_room_shifts_misleads_nobody() -> None:
    wave, time = speech_like(48_000), np.arange(48_000) / 16_000
    clean, degraded = (wave + 2 * np.sin(2 * np.pi * 100 * time + phase) for phase in (0.0, 2.0))
    assert align(clean, late(degraded, 300), REACH, LEAST).delay_samples == 300


def test_other_utterances_and_silence_do_not_correlate() -> None:
    clean = speech_like(80_000)
    assert abs(align(clean, speech_like(80_000, seed=1), REACH, LEAST).correlation) < LEAST
    assert (
        abs(align(clean[:8_000], speech_like(8_000, seed=1), REACH, LEAST).correlation) < 0.3
    )  # not over a few samples
    for one, other in [(clean, 0 * clean), (0 * clean, clean), (0 * clean, 0 * clean)]:
        assert align(one, other, REACH, LEAST).correlation == 0.0


def test_a_gap_and_a_slow_clock_are_drift() -> None:
    clean = speech_like(160_000)
    gap = np.concatenate([clean[:80_000], clean[80_400:]])
    assert align(clean, gap, REACH, LEAST).drift_samples == -400
    slow = np.interp(np.arange(0, len(clean), 1 - 1e-4), np.arange(len(clean)), clean)  # 100 ppm
    found = align(clean, slow, REACH, LEAST)
    assert 10 <= found.drift_samples <= 16  # of the 16 in 10 s, nine tenths lie between the middles of its parts
    assert 0 <= found.delay_samples <= 16
    assert found.correlation > LEAST
