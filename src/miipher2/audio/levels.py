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


class LevelMeter:
    """Measures one channel, block by block: the energy of each frame, and the peak.

    Args:
        frame_samples: length of a frame.
    """

    def __init__(self, frame_samples: int) -> None:
        self.frame_samples, self.peak = frame_samples, 0.0
        self._energies: list[Float64[np.ndarray, "frame"]] = []
        self._rest = np.zeros(0, np.float32)

    def add(self, wave: Float32[np.ndarray, "time"]) -> None:
        """Add the samples that follow."""
        self.peak = max(self.peak, float(np.abs(wave).max(initial=0.0)))
        wave = np.concatenate([self._rest, wave])
        whole = len(wave) - len(wave) % self.frame_samples
        self._energies.append(frame_energies(wave[:whole], self.frame_samples))
        self._rest = wave[whole:]

    def powers(self) -> Float64[np.ndarray, "frame"]:
        """Return the mean square of each frame; an incomplete last one counts as if zeros followed."""
        return np.concatenate([*self._energies, frame_energies(self._rest, self.frame_samples)]) / self.frame_samples


def speech_gain(before: Float64[np.ndarray, "frame"], after: LevelMeter) -> float:
    """Return the factor that gives restored speech the level of the speech in its input.

    Speech is where the output is active. The power of the input's other frames, which is noise, is taken off there, but
    never more than nine tenths. The peak of the result is at most full scale.

    Args:
        before: the input's power in each frame of the same duration as the output's.
    """
    powers = after.powers()
    frames = min(len(before), len(powers))
    before, powers = before[:frames], powers[:frames]
    active = active_frames(powers)
    if not active.any() or not before[active].any():
        return 1.0
    level = float(before[active].mean())
    noise = float(before[~active].mean()) if not active.all() else 0.0
    gain = (max(level - noise, level / 10) / float(powers[active].mean())) ** 0.5
    return min(gain, 1 / after.peak)


def active_frames(energies: Float64[np.ndarray, "frame"]) -> Bool[np.ndarray, "frame"]:
    """Return which frames are active speech."""
    return (energies > 0.0) & (energies >= energies.max(initial=0.0) * 10 ** (-ACTIVE_RANGE_DB / 10))
