"""Spectrograms as images, on one colour scale."""

import base64
import io

import matplotlib
import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image

from miipher2.audio.spectrogram import magnitude_spectrogram

SPECTROGRAM_SIZE, SPECTROGRAM_FLOOR_DB, COLOURS = (192, 440), -75.0, 48


def spectrogram_image(
    wave: Float[np.ndarray, "time"],
    sample_rate_hz: int,
    reference: Float[np.ndarray, "reference_time"],
    size: tuple[int, int] = SPECTROGRAM_SIZE,
) -> UInt8[np.ndarray, "row column"]:
    """Return a spectrogram as colour indices, highest frequency first.

    Colour 0 is `SPECTROGRAM_FLOOR_DB` below the loudest point of `reference` or less, the last colour that point or
    more.
    """
    decibels, loudest = _decibels(wave, sample_rate_hz, size), _decibels(reference, sample_rate_hz, size).max()
    share = 1.0 - (decibels - loudest) / SPECTROGRAM_FLOOR_DB
    return np.round(np.clip(share, 0.0, 1.0) * (COLOURS - 1)).astype(np.uint8)[::-1]


def colour_scale(count: int) -> list[list[int]]:
    """Return `count` colours, dark to light, as red, green, blue from 0 to 255."""
    return np.round(255 * matplotlib.colormaps["magma"](np.linspace(0.0, 1.0, count))[:, :3]).astype(int).tolist()


def encode_png(image: UInt8[np.ndarray, "row column"]) -> str:
    """Return an image of `spectrogram_image` as a PNG file in base64."""
    picture = Image.fromarray(np.ascontiguousarray(image)).convert("P")
    picture.putpalette([part for colour in colour_scale(COLOURS) for part in colour])
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _decibels(wave: np.ndarray, sample_rate_hz: int, size: tuple[int, int]) -> np.ndarray:
    window_samples = 1 << (sample_rate_hz // 32).bit_length()  # 32 to 64 ms: separates the harmonics of a low voice
    power = magnitude_spectrogram(wave, window_samples, window_samples // 8).square()
    return 10.0 * np.log10(F.adaptive_avg_pool2d(power[None], size)[0].numpy() + 1e-10)
