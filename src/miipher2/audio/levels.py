"""Speech levels: which frames of a wave are active speech, and the level of those."""

import numpy as np
from jaxtyping import Bool, Float32, Float64

from miipher2.config.schema_data import HOP_SAMPLES

# Frames count as active within so many dB of the loudest; pauses between words lie below in a clean recording.
ACTIVE_RANGE_DB = 30.0


def active_samples(wave: Float32[np.ndarray, "time"]) -> Bool[np.ndarray, "time"]:
    """Return which samples of a 16 kHz wave lie in an active frame of 20 ms; none of silence does."""
    return np.repeat(active_frames(frame_energies(wave)), HOP_SAMPLES)[: len(wave)]


def power(wave: Float32[np.ndarray, "time"]) -> float:
    """Return the mean square in double precision; 0 for an empty wave."""
    return float(np.mean(np.square(wave, dtype=np.float64))) if len(wave) else 0.0


def active_level_db(energies: Float64[np.ndarray, "frame"], samples: int, frame_samples: int = HOP_SAMPLES) -> float:
    """Return the level of a wave's active speech in dB of full scale (a mean square of 1); -inf for silence.

    Args:
        energies: from `frame_energies`.
        samples: length of the wave, whose last frame may be incomplete.
    """
    is_active = active_frames(energies)
    active = int(is_active.sum()) * frame_samples
    if len(energies) and is_active[-1]:
        active -= len(energies) * frame_samples - samples
    mean_square = float(energies[is_active].sum()) / max(active, 1)
    return float(10 * np.log10(mean_square)) if mean_square > 0 else -np.inf


def frame_energies(wave: Float32[np.ndarray, "time"], frame_samples: int = HOP_SAMPLES) -> Float64[np.ndarray, "frame"]:
    """Return each frame's sum of squares; the last frame is padded with zeros."""
    frames = -(-len(wave) // frame_samples)
    padded = np.zeros(frames * frame_samples, dtype=np.float64)
    padded[: len(wave)] = wave
    return np.einsum("ft,ft->f", *(padded.reshape(frames, frame_samples),) * 2)


def active_frames(energies: Float64[np.ndarray, "frame"]) -> Bool[np.ndarray, "frame"]:
    """Return which frames are active speech."""
    return (energies > 0.0) & (energies >= energies.max(initial=0.0) * 10 ** (-ACTIVE_RANGE_DB / 10))
