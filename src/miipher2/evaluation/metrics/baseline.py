"""Spectral subtraction: the classical baseline, which needs no training."""

import numpy as np
from jaxtyping import Float
from pyroomacoustics.denoise import apply_spectral_sub

from miipher2.rng import stream

# pyroomacoustics' own example: windows of 512 values, the noise floor over 12 of them, at most 25 dB down.
WINDOW_SAMPLES, SETTINGS = 512, {"db_reduc": 25, "lookback": 12, "beta": 30, "alpha": 1}
DITHER = 1e-6


def spectral_subtraction(wave: Float[np.ndarray, "time"]) -> Float[np.ndarray, "time"]:
    """Return the wave with its stationary noise subtracted, as long as before and not delayed.

    Source: Berouti et al. 1979, "Enhancement of speech corrupted by acoustic noise".
    """
    if not wave.any():
        return np.array(wave, np.float32)
    # It runs in blocks of half a window and returns each block half a window late.
    delay = WINDOW_SAMPLES // 2
    padded = np.pad(np.asarray(wave, np.float64), (0, WINDOW_SAMPLES + (-len(wave)) % delay))
    # It divides by the power of each bin: noise below the rounding of 16 bits replaces digital silence.
    padded += DITHER * stream(0, "dither").standard_normal(len(padded))
    cleaned = apply_spectral_sub(padded, nfft=WINDOW_SAMPLES, **SETTINGS)
    return np.ascontiguousarray(cleaned[delay : delay + len(wave)], dtype=np.float32)
