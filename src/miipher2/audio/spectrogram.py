"""Spectrograms: the one short-time Fourier transform and mel filterbank of losses, metrics and pictures."""

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

MELS = 80
MEL_FLOOR = 1e-5  # of a mel magnitude, as in HiFi-GAN
DB_PER_NEPER = 20.0 / math.log(10.0)


def default_window_samples(sample_rate_hz: int) -> int:
    """Return the power of two from 40 ms up: 1024 for 16 to 24 kHz, as in HiFi-GAN, and 2048 for 48 kHz."""
    return 2 ** math.ceil(math.log2(0.04 * sample_rate_hz))


def mel_filters(sample_rate_hz: int, window_samples: int, mels: int = MELS) -> Float[Tensor, "bin mel"]:
    """Return Slaney's mel filterbank from 0 to half the sample rate."""
    return melscale_fbanks(window_samples // 2 + 1, 0.0, sample_rate_hz / 2, mels, sample_rate_hz, "slaney", "slaney")


class LogMel(nn.Module):
    """The natural logarithm of mel magnitudes, one step every quarter of a window.

    Args:
        sample_rate_hz: of the waves.
        window_samples: None: `default_window_samples`.

    Source: Kong et al. 2020, HiFi-GAN (arXiv:2010.05646).
    """

    window: Tensor
    filters: Tensor

    def __init__(self, sample_rate_hz: int, window_samples: int | None = None, mels: int = MELS) -> None:
        super().__init__()
        window_samples = window_samples or default_window_samples(sample_rate_hz)
        self.register_buffer("window", torch.hann_window(window_samples), persistent=False)
        self.register_buffer("filters", mel_filters(sample_rate_hz, window_samples, mels), persistent=False)

    def forward(self, wave: Float[Tensor, "batch time"]) -> Float[Tensor, "batch step mel"]:
        """Return the log-mel spectrogram in float32, autocast or not.

        Raises:
            ValueError: the wave is too short to be reflected at its ends.
        """
        window_samples, samples = len(self.window), wave.shape[1]
        hop_samples = window_samples // 4
        side = (window_samples - hop_samples) // 2
        if samples <= side:
            raise ValueError(
                f"a wave of {samples} samples; should be longer than {side} for a window of {window_samples}"
            )
        with torch.autocast(wave.device.type, enabled=False):
            wave = wave.float()
            # Sliced and flipped, since the backward of reflection padding is not deterministic on CUDA.
            before, after = wave[:, 1 : side + 1].flip(1), wave[:, samples - 1 - side : samples - 1].flip(1)
            # Not torch.stft: the backward of its overlapping view adds by index on CUDA, in no fixed order.
            frames = torch.cat([before, wave, after], 1).unfold(-1, window_samples, hop_samples)
            spectrum = torch.fft.rfft(frames * self.window)
            # Added under the root, which has no slope at 0; both floors as in HiFi-GAN.
            magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
            return (magnitude @ self.filters).clamp_min(MEL_FLOOR).log()


def log_mel_db(wave: Float[Tensor, " time"], sample_rate_hz: int) -> Float[Tensor, "mel step"]:
    """Return the log-mel spectrogram of a wave of any length in dB, lowest band first, for pictures."""
    log_mel = _log_mel(sample_rate_hz)
    missing = max(0, len(log_mel.window) - len(wave))
    with torch.no_grad():
        return DB_PER_NEPER * log_mel(torch.nn.functional.pad(wave, (0, missing))[None])[0].T


def magnitude_spectrogram(
    wave: Float[np.ndarray, " time"], window_samples: int, hop_samples: int
) -> Float64[Tensor, "bin frame"]:
    """Return the magnitudes under a Hann window in double precision, for measuring.

    The wave continues as silence, not as its reflection, so that it may be shorter than half a window.
    """
    window = torch.hann_window(window_samples, dtype=torch.float64)
    samples = torch.from_numpy(np.asarray(wave, np.float64))
    return torch.stft(
        samples, window_samples, hop_samples, window=window, pad_mode="constant", return_complex=True
    ).abs()


@lru_cache(maxsize=4)
def _log_mel(sample_rate_hz: int) -> LogMel:
    return LogMel(sample_rate_hz)
