"""Spectrograms as pictures, on one colour scale."""

import base64
import io

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image

SPECTROGRAM_SIZE, SPECTROGRAM_FLOOR_DB, COLOURS = (192, 440), -75.0, 48


def spectrogram(
    wave: Float[np.ndarray, "time"],
    sample_rate_hz: int,
    reference: Float[np.ndarray, "reference_time"],
    size: tuple[int, int] = SPECTROGRAM_SIZE,
) -> UInt8[np.ndarray, "row column"]:
    """Return a spectrogram as colour numbers, top row the highest frequency.

    0 stands for `SPECTROGRAM_FLOOR_DB` and less, the last colour for the loudest point of `reference` and more.
    """
    decibels, loudest = _decibels(wave, sample_rate_hz, size), _decibels(reference, sample_rate_hz, size).max()
    share = 1.0 - (decibels - loudest) / SPECTROGRAM_FLOOR_DB
    return np.round(np.clip(share, 0.0, 1.0) * (COLOURS - 1)).astype(np.uint8)[::-1]


def colours(count: int) -> list[list[int]]:
    """Return so many colours of the scale, dark to light, as red, green, blue from 0 to 255."""
    return np.round(255 * matplotlib.colormaps["magma"](np.linspace(0.0, 1.0, count))[:, :3]).astype(int).tolist()


def png(picture: UInt8[np.ndarray, "row column"]) -> str:
    """Return such a picture as a PNG file in base64."""
    image = Image.fromarray(np.ascontiguousarray(picture)).convert("P")
    image.putpalette([part for colour in colours(COLOURS) for part in colour])
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _decibels(wave: np.ndarray, sample_rate_hz: int, size: tuple[int, int]) -> np.ndarray:
    samples = 1 << (sample_rate_hz // 32).bit_length()  # 32 to 64 ms: harmonics of a low voice apart
    values = torch.from_numpy(np.asarray(wave, np.float64))
    window = torch.hann_window(samples, dtype=torch.float64)
    spectrum = torch.stft(values, samples, samples // 8, window=window, pad_mode="constant", return_complex=True)
    power = F.adaptive_avg_pool2d(spectrum.abs().square()[None], size)[0]
    return 10.0 * np.log10(power.numpy() + 1e-10)
