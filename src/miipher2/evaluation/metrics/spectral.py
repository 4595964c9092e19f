"""Spectral distances between two waves of the same sample rate and length."""

import math

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from miipher2.audio.spectrogram import MEL_FLOOR, default_window_samples, magnitude_spectrogram, mel_filters

# Of a full-scale sine; below is the inaudible rounding noise of 16-bit files.
SPECTRAL_FLOOR_DB = -100.0
# Of a band relative to all power: the smallest share that counts.
BAND_FLOOR_DB = -80.0


def log_mel_distance(clean: Float[np.ndarray, "time"], other: Float[np.ndarray, "time"], sample_rate_hz: int) -> float:
    """Return the mean absolute difference of two waves' log-mel spectrograms (natural logarithm)."""
    filters = mel_filters(sample_rate_hz, default_window_samples(sample_rate_hz)).double()
    mels = [(filters.T @ _magnitude(wave, sample_rate_hz)).clamp(min=MEL_FLOOR).log() for wave in (clean, other)]
    return float((mels[0] - mels[1]).abs().mean())


def log_spectral_distance(
    clean: Float[np.ndarray, "time"], other: Float[np.ndarray, "time"], sample_rate_hz: int
) -> float:
    """Return the log-spectral distance in dB: root mean square over frequencies, mean over frames.

    Source: Gray and Markel 1976, "Distance measures for speech processing".
    """
    full_scale = default_window_samples(sample_rate_hz) / 4  # of a sine of amplitude 1 under a Hann window
    floor = full_scale * 10.0 ** (SPECTRAL_FLOOR_DB / 20.0)
    levels = [20.0 * _magnitude(wave, sample_rate_hz).clamp(min=floor).log10() for wave in (clean, other)]
    return float((levels[0] - levels[1]).square().mean(dim=0).sqrt().mean())


def band_share_db(wave: Float[np.ndarray, "time"], sample_rate_hz: int, above_hz: int | float) -> float:
    """Return the power above a frequency relative to all power, in dB, from `BAND_FLOOR_DB` up."""
    power = _magnitude(wave, sample_rate_hz).square().sum(dim=1)
    frequencies = torch.linspace(0.0, sample_rate_hz / 2, len(power), dtype=torch.float64)
    total, above = float(power.sum()), float(power[frequencies > above_hz].sum())
    return max(BAND_FLOOR_DB, 10.0 * math.log10(above / total)) if above > 0.0 else BAND_FLOOR_DB


def _magnitude(wave: Float[np.ndarray, "time"], sample_rate_hz: int) -> Float64[Tensor, "bin frame"]:
    window_samples = default_window_samples(sample_rate_hz)
    return magnitude_spectrogram(wave, window_samples, window_samples // 4)
