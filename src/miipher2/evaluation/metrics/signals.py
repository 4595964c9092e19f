"""The input of a metric: one recording, and the clean one to compare it with, without the delay between them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.signal import correlate, correlation_lags

from miipher2.audio.resample import resample
from miipher2.config.schema_data import SAMPLE_RATE_HZ
from miipher2.evaluation.metrics.asr import POCKETSPHINX, Asr

Wave = Float[np.ndarray, "time"]
# Below this the peak of a correlation is random: a vocoder's speech shares no phase with the clean one.
MIN_CORRELATION = 0.4


class SkippedMetric(Exception):
    """A metric that cannot be measured on a recording; the message is the reason."""


class Signal:
    """One recording; `cache` keeps what metrics compute from it, so that the clean one is processed once.

    Args:
        language: of the speech; "" where it is not known.
        transcript: of the speech; "" where there is none.
        asr: recognises the words.
    """

    def __init__(
        self,
        wave: Wave,
        sample_rate_hz: int,
        language: str = "",
        transcript: str = "",
        asr: Asr = POCKETSPHINX,
    ) -> None:
        self.wave, self.sample_rate_hz = wave, sample_rate_hz
        self.language, self.transcript, self.asr = language, transcript, asr
        self.cache: dict[str, Any] = {}

    @cached_property
    def at_16k(self) -> Float[np.ndarray, "time_16k"]:
        """The wave at 16 kHz and within [-1, 1], as the models of most metrics require."""
        wave = np.asarray(self.wave, np.float32)
        return np.clip(resample(wave, self.sample_rate_hz, SAMPLE_RATE_HZ), -1.0, 1.0)


@dataclass(frozen=True)
class SignalPair:
    """A recording to measure, and the clean one to compare it with, where there is one."""

    clean: Signal | None
    measured: Signal
    max_delay_seconds: float = 0.1

    @property
    def reference(self) -> Signal:
        """The clean recording, for metrics that need one."""
        assert self.clean is not None
        return self.clean

    @cached_property
    def delay_samples(self) -> int:
        """How many samples later than the clean recording the measured one is."""
        max_delay_samples = round(self.max_delay_seconds * self.measured.sample_rate_hz)
        return estimate_delay(self.reference.wave, self.measured.wave, max_delay_samples)

    @cached_property
    def aligned(self) -> tuple[Float[np.ndarray, "time"], Float[np.ndarray, "time"]]:
        """Both waves without their delay, cut to what they share."""
        clean, measured, delay = self.reference.wave, self.measured.wave, self.delay_samples
        clean, measured = (clean, measured[delay:]) if delay >= 0 else (clean[-delay:], measured)
        shared = min(len(clean), len(measured))
        return np.ascontiguousarray(clean[:shared]), np.ascontiguousarray(measured[:shared])

    @cached_property
    def aligned_16k(self) -> tuple[Float[np.ndarray, "time"], Float[np.ndarray, "time"]]:
        """Both waves without their delay, at 16 kHz."""
        clean, measured = (Signal(wave, self.measured.sample_rate_hz).at_16k for wave in self.aligned)
        return clean, measured


def estimate_delay(clean: Wave, other: Float[np.ndarray, "other_time"], max_delay_samples: int) -> int:
    """Return how many samples later than `clean` `other` is, by the peak of their normalised cross-correlation.

    Where the peak is below `MIN_CORRELATION`, the delay cannot be estimated this way and is taken as 0.
    """
    energy = float(np.sqrt(np.square(clean, dtype=np.float64).sum() * np.square(other, dtype=np.float64).sum()))
    if energy == 0.0:
        return 0
    lags = correlation_lags(len(other), len(clean))
    is_allowed = np.abs(lags) <= max_delay_samples
    correlation = correlate(other.astype(np.float64), clean.astype(np.float64), method="fft")[is_allowed] / energy
    peak = int(np.argmax(correlation))
    return int(lags[is_allowed][peak]) if correlation[peak] >= MIN_CORRELATION else 0
