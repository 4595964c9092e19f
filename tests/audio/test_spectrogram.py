"""Spectrograms against an implementation in NumPy and against signals whose spectrum is known."""

import math

import numpy as np
import pytest
import torch

from miipher2.audio.spectrogram import LogMel, log_mel_db, magnitude_spectrogram


def slaney_mel(hz: float) -> float:
    return hz * 3 / 200 if hz < 1000 else 15 + math.log(hz / 1000) * 27 / math.log(6.4)


def slaney_hz(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1000 * math.exp((mel - 15) * math.log(6.4) / 27)


def numpy_log_mel(wave: np.ndarray, sample_rate_hz: int, window_samples: int, mels: int) -> np.ndarray:
    """Return the log-mel spectrogram of HiFi-GAN, with Slaney's bands, frame by frame."""
    hop = window_samples // 4
    padded = np.pad(wave.astype(np.float64), (window_samples - hop) // 2, mode="reflect")
    window = np.hanning(window_samples + 1)[:-1]
    edges = [slaney_hz(m) for m in np.linspace(0, slaney_mel(sample_rate_hz / 2), mels + 2)]
    bins_hz = np.fft.rfftfreq(window_samples, 1 / sample_rate_hz)
    steps = []
    for start in range(0, len(padded) - window_samples + 1, hop):
        magnitude = np.abs(np.fft.rfft(padded[start : start + window_samples] * window))
        bands = []
        for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False):
            rise, fall = (bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre)
            triangle = np.maximum(0, np.minimum(rise, fall)) * 2 / (high - low)
            bands.append(np.log(max(triangle @ np.sqrt(magnitude**2 + 1e-9), 1e-5)))
        steps.append(bands)
    return np.array(steps)


@pytest.mark.parametrize(("sample_rate_hz", "window_samples"), [(16_000, 1024), (22_050, 1024), (48_000, 2048)])
def test_log_mel_equals_a_numpy_implementation(sample_rate_hz: int, window_samples: int) -> None:
    wave = np.random.default_rng(0).standard_normal(4800).astype(np.float32) * 0.1
    log_mel = LogMel(sample_rate_hz, mels=40)
    assert len(log_mel.window) == window_samples
    expected = numpy_log_mel(wave, sample_rate_hz, window_samples, 40)
    np.testing.assert_allclose(log_mel(torch.from_numpy(wave)[None])[0].numpy(), expected, atol=2e-3)


def test_wave_too_short_for_a_log_mel_is_an_error() -> None:
    with pytest.raises(ValueError, match="a wave of 320 samples; should be longer than 384 for a window of 1024"):
        LogMel(16_000)(torch.zeros(1, 320))


def test_log_mel_has_no_state() -> None:
    assert not LogMel(16_000).state_dict()


@pytest.mark.parametrize("samples", [1, 100, 16_000])
def test_log_mel_in_db_takes_any_length_and_half_the_amplitude_is_6_db_less(samples: int) -> None:
    wave = 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(0)) + 0.5
    loud, quiet = log_mel_db(wave, 16_000), log_mel_db(wave / 2, 16_000)
    assert loud.shape == (80, max(samples, 1024) // 256)
    assert (loud.max() - quiet.max()).item() == pytest.approx(20 * math.log10(2), abs=0.01)


def test_magnitudes_of_a_full_scale_sine_peak_at_its_frequency() -> None:
    sine = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    magnitude = magnitude_spectrogram(sine, 1024, 256)[:, 10:-10]
    assert magnitude.argmax(0).unique().tolist() == [64]
    assert magnitude[64].mean().item() == pytest.approx(1024 / 4, rel=1e-3)
    assert magnitude_spectrogram(sine[:10], 1024, 256).shape == (513, 1)
