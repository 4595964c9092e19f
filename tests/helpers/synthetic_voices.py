"""Speech-like sound for the data tests."""

import numpy as np

from miipher2.rng import stream


def synthetic_voice(seconds: float, rate_hz: int = 16000, seed: int = 0) -> np.ndarray:
    """Return a buzz with pauses at the level of speech: harmonics of a pitch, with a little breath noise."""
    rng = stream(seed, "voice")
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    pitch_hz = rng.uniform(90, 250)
    buzz = sum(np.sin(2 * np.pi * k * pitch_hz * time + rng.uniform(0, 6)) / k for k in range(1, 16))
    syllables = np.clip(np.sin(2 * np.pi * 2 * time + rng.uniform(0, 6)), 0.01, None)
    wave = syllables * (buzz + 0.1 * rng.standard_normal(len(time)))
    return (0.4 * wave / np.abs(wave).max()).astype(np.float32)
