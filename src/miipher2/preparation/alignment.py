"""The delay between two recordings of one utterance: constant, or changing from the beginning to the end."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Float64
from scipy.fft import irfft, next_fast_len, rfft
from scipy.ndimage import uniform_filter1d
from scipy.signal import correlate

from miipher2.config.schema_data import SAMPLE_RATE_HZ

PART_SAMPLES = 2 * SAMPLE_RATE_HZ  # clocks that differ by 50 ppm keep together so long: 1.6 samples
TOP_HZ = 4000  # telephone speech and most of what codecs leave; a peak is wide enough for clocks that run apart
BAND_HZ = 100  # in which a spectrum is averaged before it is flattened; wider than the lines of a voice
MIN_MAGNITUDE = 1e-3  # of a spectrum, relative to its largest: -60 dB and below are not raised further
MIN_ENERGY = 1e-6  # of a part, relative to the largest at any delay: what is quieter is rounding

Wave = Float[np.ndarray, "time"]


@dataclass(frozen=True)
class Alignment:
    """How late the degraded recording is, in samples at 16 kHz.

    `correlation` is the mean over its parts, from -1 to 1, whatever the gains; below 0 one recording is inverted.
    `drift_samples` is how much later the end is than the beginning.
    """

    delay_samples: int
    correlation: float
    drift_samples: int


def align(
    clean: Wave, degraded: Float[np.ndarray, "degraded_time"], max_delay_samples: int, min_correlation: float
) -> Alignment:
    """Return the delay of largest normalised cross-correlation between two recordings with flattened spectra.

    It is measured in parts of some 2 s, so that clocks which run apart hide no pair: the delay is the median by the
    clean side's energy, the drift lies between the first and the last part that correlate enough.

    Args:
        clean, degraded: at 16 kHz, of any gain and length.
        max_delay_samples: how far to look, both ways.
        min_correlation: of the parts whose delay counts; all of them count where none correlates so much.
    """
    clean, degraded = _flatten(clean), _flatten(degraded)
    bounds = np.linspace(0, len(clean), max(1, round(len(clean) / PART_SAMPLES)) + 1).astype(int).tolist()
    parts = [_find_delay(clean, degraded, *each, max_delay_samples) for each in pairwise(bounds)]
    delays, correlations, energies = (np.array(values) for values in zip(*parts, strict=True))
    if not energies.any():  # silence, or too little in common
        return Alignment(0, 0.0, 0)
    mean = float(np.average(np.abs(correlations), weights=energies))
    sign = -1.0 if np.sum(correlations * energies) < 0 else 1.0
    counts = np.abs(correlations) >= min(min_correlation, np.abs(correlations).max())
    delays, energies = delays[counts].astype(int), energies[counts]
    order = np.argsort(delays, kind="stable")
    halves = np.cumsum(energies[order])
    median = int(delays[order][np.searchsorted(halves, halves[-1] / 2)])
    return Alignment(median, sign * mean, int(delays[-1] - delays[0]))


def _flatten(wave: Wave) -> Float64[np.ndarray, "time"]:
    """Return a recording up to 4 kHz whose spectrum is equally strong in every band.

    The strongest frequencies are the lowest, which repeat with the pitch and are what a room adds to: with them the
    largest correlation is often at another delay.
    """
    size = next_fast_len(len(wave), real=True)
    spectrum = rfft(np.asarray(wave, np.float64), size)
    width = max(1, round(BAND_HZ * size / SAMPLE_RATE_HZ))
    magnitude = np.sqrt(np.maximum(uniform_filter1d(np.abs(spectrum) ** 2, width), 0.0))
    if not magnitude.any():
        return np.zeros(len(wave))
    spectrum /= np.maximum(magnitude, MIN_MAGNITUDE * magnitude.max())
    spectrum[round(TOP_HZ * size / SAMPLE_RATE_HZ) + 1 :] = 0.0
    return np.asarray(irfft(spectrum, size)[: len(wave)])


def _find_delay(
    clean: Wave, degraded: Float[np.ndarray, "degraded_time"], start: int, stop: int, reach: int
) -> tuple[int, float, float]:
    """Return the delay of a part of the clean recording, the correlation there, and the energy that it is over.

    It is over the samples that both recordings have: at least half of the part, or of a shorter degraded recording.
    """
    part, first = clean[start:stop], start - reach
    inside = degraded[max(0, first) : stop + reach]
    other = np.zeros(len(part) + 2 * reach)
    other[max(0, -first) :][: len(inside)] = inside
    delays = np.arange(-reach, reach + 1)
    begin, end = (np.clip(bound - delays - start, 0, len(part)) for bound in (0, len(degraded)))
    sums, other_sums = (np.concatenate([[0.0], np.cumsum(wave**2)]) for wave in (part, other))
    energies = (sums[end] - sums[begin], other_sums[len(part) :] - other_sums[: len(delays)])
    if not all(energy.any() for energy in energies):
        return 0, 0.0, 0.0
    energy, other_energy = (np.maximum(each, MIN_ENERGY * each.max()) for each in energies)
    correlations = correlate(other, part, mode="valid", method="fft") / np.sqrt(energy * other_energy)
    is_short = 2 * (end - begin) < min(len(part), len(degraded))
    correlations[is_short] = 0.0
    best = int(np.argmax(np.abs(correlations)))
    return best - reach, float(correlations[best]), 0.0 if is_short[best] else float(energies[0][best])
