"""Levels: where a wave holds speech, and how strong it is there."""

import numpy as np
from jaxtyping import Bool, Float32, Float64

FRAME_SAMPLES = 320  # 20 ms at 16 kHz
# A frame counts as speech within so many dB of the loudest; pauses between words lie below in a clean recording.
ACTIVE_RANGE_DB = 30.0


def active(wave: Float32[np.ndarray, "time"]) -> Bool[np.ndarray, "time"]:
    """Say of each value, at 16 kHz, whether it lies in a 20 ms frame of active speech; nothing in silence is active."""
    return np.repeat(active_frames(frame_energies(wave)), FRAME_SAMPLES)[: len(wave)]


def power(wave: Float32[np.ndarray, "time"]) -> float:
    """Return the mean square in double precision; 0 of nothing."""
    return float(np.mean(np.square(wave, dtype=np.float64))) if len(wave) else 0.0


def active_level_db(wave: Float32[np.ndarray, "time"]) -> float:
    """Return the level of the active speech, at 16 kHz, in dB of full scale (a mean square of 1); -inf in silence."""
    return energy_level_db(frame_energies(wave), len(wave))


def energy_level_db(energies: Float64[np.ndarray, "frame"], samples: int, frame_samples: int = FRAME_SAMPLES) -> float:
    """Return the level of the active speech of a wave by the energies of its frames, the last of which may be short."""
    is_active = active_frames(energies)
    active_samples = int(is_active.sum()) * frame_samples
    if len(energies) and is_active[-1]:
        active_samples -= len(energies) * frame_samples - samples
    loudness = float(energies[is_active].sum()) / max(active_samples, 1)
    return float(10 * np.log10(loudness)) if loudness > 0 else -np.inf


def frame_energies(
    wave: Float32[np.ndarray, "time"], frame_samples: int = FRAME_SAMPLES
) -> Float64[np.ndarray, "frame"]:
    """Return the sum of squares in each frame, the last filled with zeros."""
    frames = -(-len(wave) // frame_samples)
    padded = np.zeros(frames * frame_samples, dtype=np.float64)
    padded[: len(wave)] = wave
    return np.einsum("ft,ft->f", *(padded.reshape(frames, frame_samples),) * 2)


def active_frames(energies: Float64[np.ndarray, "frame"]) -> Bool[np.ndarray, "frame"]:
    """Say which frames hold active speech."""
    return (energies > 0.0) & (energies >= energies.max(initial=0.0) * 10 ** (-ACTIVE_RANGE_DB / 10))
