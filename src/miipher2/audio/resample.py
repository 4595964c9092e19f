"""Resampling: of a whole wave, and block by block with the values that the whole wave would give."""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float32
from torchaudio.transforms import Resample


def resample(wave: Float32[np.ndarray, "time"], from_hz: int, to_hz: int) -> Float32[np.ndarray, "resampled"]:
    """Return `wave` at another sample rate, exactly `round(len(wave) * to_hz / from_hz)` values long."""
    if from_hz == to_hz:
        return wave
    length = round(len(wave) * to_hz / from_hz)
    if length == 0:
        return np.zeros(0, dtype=np.float32)
    # One thread, as in a data worker: the bits of a convolution may depend on how many share it.
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
