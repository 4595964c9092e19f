"""Resampling by one filter: of a whole wave, as training does it, and block by block, for recordings of any length."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache, reduce

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32
from torch import Tensor, nn

# The sharp Kaiser window of torchaudio's resampling tutorial ("kaiser_best"): aliases below -100 dB.
ZERO_CROSSINGS, ROLLOFF, BETA = 64, 0.9475937167399596, 14.769656459379492
MAX_KERNEL = 4_000_000  # taps of all phases; rates without a small ratio, 44,101 to 16,000, would need 700 million
KERNEL_PARTS = 5  # each convolved on its own: one sum over all taps rounds twice as much


def resample(wave: Float32[np.ndarray, "time"], from_hz: int, to_hz: int) -> Float32[np.ndarray, "resampled"]:
    """Return a wave at another sample rate, exactly `round(len(wave) * to_hz / from_hz)` samples long."""
    if from_hz == to_hz:
        return wave
    length = round(len(wave) * to_hz / from_hz)
    if length == 0:
        return np.zeros(0, dtype=np.float32)
    with _one_thread():
        resampled = _resampler(from_hz, to_hz)(torch.from_numpy(np.array(wave)))
    return np.ascontiguousarray(resampled.numpy()[:length])


@lru_cache(maxsize=16)
def _resampler(from_hz: int, to_hz: int) -> nn.Module:
    from torchaudio.transforms import Resample  # a third of a second, which recordings restored here need not pay

    return Resample(from_hz, to_hz, "sinc_interp_kaiser", ZERO_CROSSINGS, ROLLOFF, BETA)


class StreamResampler:
    """Resamples block by block with the filter of `resample`, in memory that does not grow with the recording.

    The blocks have no effect on the samples beyond rounding (-120 dB). N samples in give ceil(N * to_hz / from_hz) out.

    Args:
        from_hz, to_hz: any two, also without a small ratio.
    """

    def __init__(self, from_hz: int, to_hz: int, channels: int) -> None:
        ratio = Fraction(to_hz, from_hz)
        self._up, self._down = ratio.numerator, ratio.denominator
        self._reach = _reach(self._up, self._down)
        self._buffer = np.zeros((channels, self._reach), np.float32)  # silence before the recording
        self._samples_in = self._samples_out = 0

    def push(self, block: Float32[np.ndarray, "channel time"]) -> Float32[np.ndarray, "channel resampled"]:
        """Add the next block and return the samples that are complete."""
        self._samples_in += block.shape[1]
        if self._up == self._down:
            return block
        self._buffer = np.concatenate([self._buffer, block], 1)
        return self._resample()

    def finish(self) -> Float32[np.ndarray, "channel resampled"]:
        """Return the remaining samples; silence follows the recording."""
        channels, done = len(self._buffer), self._samples_out
        if self._up == self._down:
            return np.zeros((channels, 0), np.float32)
        remaining = -(-self._samples_in * self._up // self._down) - done
        silence = np.zeros((channels, 2 * self._reach + 2 * self._down), np.float32)
        self._buffer = np.concatenate([self._buffer, silence], 1)
        return self._resample()[:, :remaining]

    def _resample(self) -> Float32[np.ndarray, "channel resampled"]:
        """Return `up` samples for each `down` whose whole neighbourhood is in the buffer, and drop those."""
        width = 2 * self._reach + self._down
        periods = max(0, (self._buffer.shape[1] - width) // self._down + 1)
        if periods == 0:
            return np.zeros((len(self._buffer), 0), np.float32)
        used = np.ascontiguousarray(self._buffer[:, : (periods - 1) * self._down + width])
        self._buffer = self._buffer[:, periods * self._down :]
        self._samples_out += periods * self._up
        if width * self._up <= MAX_KERNEL:
            with _one_thread(), torch.inference_mode():
                phases = _convolve(torch.from_numpy(used)[:, None], _kernel(self._up, self._down), self._down)
            return np.ascontiguousarray(phases.transpose(1, 2).reshape(len(used), -1).numpy())
        from scipy.signal import upfirdn  # half a second

        # Sample n is centred on sample reach + n * down / up of the buffer, and the filter on its own middle.
        filtered = upfirdn(_filter(self._up, self._down), used, self._up, self._down)
        first = (2 * self._reach * self._up + -2 * self._reach * self._up % self._down) // self._down
        return filtered[:, first : first + periods * self._up].astype(np.float32)


def _convolve(
    wave: Float32[Tensor, "channel 1 time"], kernel: Float32[Tensor, "up 1 width"], stride: int
) -> Float32[Tensor, "channel up period"]:
    """Return the convolution, as the sum of those with `KERNEL_PARTS` parts of the kernel."""
    rest, size = wave.shape[2] - kernel.shape[2], -(-kernel.shape[2] // KERNEL_PARTS)
    parts = (
        F.conv1d(wave[:, :, index * size : index * size + rest + taps.shape[2]], taps, stride=stride)
        for index, taps in enumerate(kernel.split(size, 2))
    )
    return reduce(torch.add, parts)


def _reach(up: int, down: int) -> int:
    """Return how many neighbouring samples on each side affect a sample."""
    return int(np.ceil(ZERO_CROSSINGS * down / (min(up, down) * ROLLOFF)))


@lru_cache(maxsize=16)
def _kernel(up: int, down: int) -> Float32[Tensor, "up 1 width"]:
    """Return the filters of the `up` samples of a period."""
    reach = _reach(up, down)
    distances = np.arange(-reach, reach + down)[None] - np.arange(up)[:, None] * down / up
    return torch.from_numpy(_windowed_sinc(distances, up, down)[:, None])


@lru_cache(maxsize=2)
def _filter(up: int, down: int) -> Float32[np.ndarray, " tap"]:
    """Return the filter of all phases, `up` taps per sample, after zeros that align its middle with a kept sample."""
    reach = _reach(up, down)
    taps = _windowed_sinc(np.arange(-reach * up, reach * up + 1) / up, up, down)
    return np.concatenate([np.zeros(-2 * reach * up % down, np.float32), taps])


def _windowed_sinc(distances: np.ndarray, up: int, down: int) -> Float32[np.ndarray, "..."]:
    """Return the filter at distances in samples of the input."""
    cutoff = min(up, down) * ROLLOFF / down
    crossings = np.clip(distances * cutoff, -ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = np.i0(BETA * np.sqrt(1 - (crossings / ZERO_CROSSINGS) ** 2)) / np.i0(BETA)
    return (np.sinc(crossings) * window * cutoff).astype(np.float32)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run on one thread: the bits of a convolution may depend on the number, and the networks have the others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
