"""Resampling block by block, with the values that the whole wave would give."""

from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32
from scipy.signal import upfirdn
from torch import Tensor

# The filter of `audio.resample`: torchaudio's "kaiser_best", aliases below -100 dB.
ZERO_CROSSINGS, ROLLOFF, BETA = 64, 0.9475937167399596, 14.769656459379492
LARGEST_KERNEL = 4_000_000  # values of a table of all phases; rates with no small ratio, 44,101 to 16,000, need 700 M


class Resampler:
    """From one sample rate to another: a windowed sinc, as `audio.resample`, of blocks of any length.

    N values in give ceil(N * to_hz / from_hz) out.

    Args:
        from_hz, to_hz: any two; also such that have no small ratio.
    """

    def __init__(self, from_hz: int, to_hz: int, channels: int) -> None:
        ratio = Fraction(to_hz, from_hz)
        self._up, self._down = ratio.numerator, ratio.denominator
        self._reach = _reach(self._up, self._down)
        self._buffer = np.zeros((channels, self._reach), np.float32)  # what lies before the wave is silence
        self._heard = self._given = 0

    def push(self, block: Float32[np.ndarray, "channel time"]) -> Float32[np.ndarray, "channel resampled"]:
        """Take the next block and return what can be told so far."""
        self._heard += block.shape[1]
        if self._up == self._down:
            return block
        self._buffer = np.concatenate([self._buffer, block], 1)
        return self._resample()

    def finish(self) -> Float32[np.ndarray, "channel resampled"]:
        """Return the rest: what lies after the wave is silence."""
        channels, given = len(self._buffer), self._given
        if self._up == self._down:
            return np.zeros((channels, 0), np.float32)
        rest = -(-self._heard * self._up // self._down) - given
        silence = np.zeros((channels, 2 * self._reach + 2 * self._down), np.float32)
        self._buffer = np.concatenate([self._buffer, silence], 1)
        return self._resample()[:, :rest]

    def _resample(self) -> Float32[np.ndarray, "channel resampled"]:
        """Return `up` values for each `down` that have their whole neighbourhood in the buffer, and drop these."""
        width = 2 * self._reach + self._down
        rounds = max(0, (self._buffer.shape[1] - width) // self._down + 1)
        if rounds == 0:
            return np.zeros((len(self._buffer), 0), np.float32)
        used = np.ascontiguousarray(self._buffer[:, : (rounds - 1) * self._down + width])
        self._buffer = self._buffer[:, rounds * self._down :]
        self._given += rounds * self._up
        if width * self._up <= LARGEST_KERNEL:
            return _one_threaded(used, _kernel(self._up, self._down), self._down)
        # Value n is centred on the value reach + n * down / up of the buffer, and the filter on its own middle.
        taps = _filter(self._up, self._down)
        filtered = upfirdn(taps, used, self._up, self._down)
        first = (2 * self._reach * self._up + -2 * self._reach * self._up % self._down) // self._down
        return filtered[:, first : first + rounds * self._up].astype(np.float32)


def _one_threaded(used: np.ndarray, kernel: Tensor, down: int) -> Float32[np.ndarray, "channel resampled"]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # it runs beside the networks, which have the others
    try:
        with torch.inference_mode():
            rounds = F.conv1d(torch.from_numpy(used)[:, None], kernel, stride=down)
    finally:
        torch.set_num_threads(threads)
    return np.ascontiguousarray(rounds.transpose(1, 2).reshape(len(used), -1).numpy())


def _reach(up: int, down: int) -> int:
    """Return how many values on each side of a place change what is there."""
    return int(np.ceil(ZERO_CROSSINGS * down / (min(up, down) * ROLLOFF)))


@lru_cache(maxsize=16)
def _kernel(up: int, down: int) -> Float32[Tensor, "up 1 width"]:
    """Return the filter of each of the `up` values that a round gives."""
    reach = _reach(up, down)
    places = np.arange(-reach, reach + down)[None] - np.arange(up)[:, None] * down / up
    return torch.from_numpy(_sinc(places, up, down)[:, None])


@lru_cache(maxsize=2)
def _filter(up: int, down: int) -> Float32[np.ndarray, " tap"]:
    """Return the filter of all phases, `up` to a value, after zeros that bring its middle to a place that is kept."""
    reach = _reach(up, down)
    taps = _sinc(np.arange(-reach * up, reach * up + 1) / up, up, down)
    return np.concatenate([np.zeros(-2 * reach * up % down, np.float32), taps])


def _sinc(places: np.ndarray, up: int, down: int) -> Float32[np.ndarray, "..."]:
    """Return the windowed sinc at distances in values of the input."""
    cutoff = min(up, down) * ROLLOFF / down
    crossings = np.clip(places * cutoff, -ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = np.i0(BETA * np.sqrt(1 - (crossings / ZERO_CROSSINGS) ** 2)) / np.i0(BETA)
    return (np.sinc(crossings) * window * cutoff).astype(np.float32)
