"""Noise in the band of speech, for the audio tests."""

import numpy as np

from miipher2.rng import stream


def speech_like(samples: int = 16_000, seed: int = 0) -> np.ndarray:
    """Return noise between 100 Hz and 3 kHz in bursts, at 16 kHz: any codec passes it, and a delay shows."""
    spectrum = np.fft.rfft(stream(seed, "wave").standard_normal(samples))
    frequencies = np.fft.rfftfreq(samples, 1 / 16_000)
    wave = np.fft.irfft(spectrum * ((frequencies > 100) & (frequencies < 3000)), samples)
    wave *= np.sin(np.pi * np.arange(samples) / 4000) ** 2
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)
