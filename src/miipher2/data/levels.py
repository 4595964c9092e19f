"""Levels: where a wave holds speech, and how strong it is there."""

import numpy as np
from jaxtyping import Bool, Float32

FRAME_SAMPLES = 320  # 20 ms at 16 kHz
# A frame counts as speech within so many dB of the loudest; pauses between words lie below in a clean recording.
ACTIVE_RANGE_DB = 30.0


def active(wave: Float32[np.ndarray, "time"]) -> Bool[np.ndarray, "time"]:
    """Say of each value whether it lies in a 20 ms frame of active speech; nothing in silence is active."""
    frames = -(-len(wave) // FRAME_SAMPLES)
    padded = np.zeros(frames * FRAME_SAMPLES, dtype=np.float64)
    padded[: len(wave)] = wave
    energy = np.einsum("ft,ft->f", *(padded.reshape(frames, FRAME_SAMPLES),) * 2)
    loudest = energy.max(initial=0.0)
    is_active = (energy > 0.0) & (energy >= loudest * 10 ** (-ACTIVE_RANGE_DB / 10))
    return np.repeat(is_active, FRAME_SAMPLES)[: len(wave)]


def power(wave: Float32[np.ndarray, "time"]) -> float:
    """Return the mean square in double precision; 0 of nothing."""
    return float(np.mean(np.square(wave, dtype=np.float64))) if len(wave) else 0.0


def active_level_db(wave: Float32[np.ndarray, "time"]) -> float:
    """Return the level of the active speech in dB of full scale (a mean square of 1); -inf in silence."""
    loudness = power(wave[active(wave)])
    return float(10 * np.log10(loudness)) if loudness > 0 else -np.inf
