"""The delay of one wave against another, and the two cut to what they share."""

import numpy as np
from jaxtyping import Float
from scipy.signal import correlate, correlation_lags

Wave = Float[np.ndarray, "time"]
# Below this the peak of a correlation is chance: speech made anew by a vocoder shares no phase with the clean one.
COHERENT = 0.4


def delay_samples(clean: Wave, other: Wave, max_delay_samples: int) -> int:
    """Return by how many values `other` comes later than `clean`: the peak of their normalised cross-correlation.

    Where the peak is below `COHERENT` the delay cannot be known this way and is taken as 0.
    """
    energy = float(np.sqrt(np.square(clean, dtype=np.float64).sum() * np.square(other, dtype=np.float64).sum()))
    if energy == 0.0:
        return 0
    lags = correlation_lags(len(other), len(clean))
    allowed = np.abs(lags) <= max_delay_samples
    likeness = correlate(other.astype(np.float64), clean.astype(np.float64), method="fft")[allowed] / energy
    peak = int(np.argmax(likeness))
    return int(lags[allowed][peak]) if likeness[peak] >= COHERENT else 0


def align(
    clean: Wave, other: Wave, delay: int
) -> tuple[Float[np.ndarray, "shared_time"], Float[np.ndarray, "shared_time"]]:
    """Return the two waves without what only one of them has, once the delay is taken out."""
    clean, other = (clean, other[delay:]) if delay >= 0 else (clean[-delay:], other)
    shared = min(len(clean), len(other))
    return np.ascontiguousarray(clean[:shared]), np.ascontiguousarray(other[:shared])
