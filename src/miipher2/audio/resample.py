"""Resampling: of a whole wave, as training does it, and block by block, for recordings of any length."""

from functools import lru_cache

import numpy as np
import soxr
import torch
from jaxtyping import Float32
from torchaudio.transforms import Resample


def resample(wave: Float32[np.ndarray, "time"], from_hz: int, to_hz: int) -> Float32[np.ndarray, "resampled"]:
    """Return a wave at another sample rate, exactly `round(len(wave) * to_hz / from_hz)` samples long."""
    if from_hz == to_hz:
        return wave
    length = round(len(wave) * to_hz / from_hz)
    if length == 0:
        return np.zeros(0, dtype=np.float32)
    # One thread, as in a data worker: the bits of a convolution may depend on the number of threads.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resampled = _resampler(from_hz, to_hz)(torch.from_numpy(np.array(wave)))
    finally:
        torch.set_num_threads(threads)
    return np.ascontiguousarray(resampled.numpy()[:length])


@lru_cache(maxsize=16)
def _resampler(from_hz: int, to_hz: int) -> Resample:
    # The sharp Kaiser window of torchaudio's resampling tutorial ("kaiser_best"): aliases below -100 dB.
    return Resample(from_hz, to_hz, "sinc_interp_kaiser", 64, 0.9475937167399596, 14.769656459379492)


class StreamResampler:
    """Resamples a recording block by block: the same samples whatever the blocks, in memory that does not grow.

    N samples in give ceil(N * to_hz / from_hz) out, by libsoxr at very high quality: aliases below -150 dB.
    """

    def __init__(self, from_hz: int, to_hz: int, channels: int) -> None:
        self._from_hz, self._to_hz, self._channels = from_hz, to_hz, channels
        self._samples_in = self._samples_out = 0
        self._stream = soxr.ResampleStream(from_hz, to_hz, channels, dtype="float32", quality="VHQ")

    def push(self, block: Float32[np.ndarray, "channel time"]) -> Float32[np.ndarray, "channel resampled"]:
        """Add the next block and return the samples that are complete."""
        if self._from_hz == self._to_hz:
            return block
        resampled = self._stream.resample_chunk(np.ascontiguousarray(block.T))
        self._samples_in += block.shape[1]
        self._samples_out += len(resampled)
        return np.ascontiguousarray(resampled.T)

    def finish(self) -> Float32[np.ndarray, "channel resampled"]:
        """Return the remaining samples; the recording is followed by silence."""
        if self._from_hz == self._to_hz:
            return np.zeros((self._channels, 0), np.float32)
        remaining = -(-self._samples_in * self._to_hz // self._from_hz) - self._samples_out
        # libsoxr rounds the length: silence worth more than one sample, then the exact cut.
        silence = np.zeros((self._from_hz // self._to_hz + 2, self._channels), np.float32)
        return np.ascontiguousarray(self._stream.resample_chunk(silence, last=True)[:remaining].T)
