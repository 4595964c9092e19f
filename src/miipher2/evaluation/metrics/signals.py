"""What a metric is given: the clean recording, what is compared with it, and what both have in common."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from miipher2.audio.resample import resample
from miipher2.evaluation.metrics.alignment import align, delay_samples

RATE_HZ = 16_000  # of most metrics' models


class Skipped(Exception):
    """A metric that cannot be had for this sound; the message is the reason."""


class Voice:
    """One recording; what is computed from it is kept, so that the clean one is heard once for all systems."""

    def __init__(self, wave: Float[np.ndarray, "time"], sample_rate_hz: int, language: str = "") -> None:
        self.wave, self.sample_rate_hz, self.language = wave, sample_rate_hz, language
        self.kept: dict[str, Any] = {}

    @cached_property
    def at_16k(self) -> Float[np.ndarray, "time_16k"]:
        """The wave at 16 kHz, within [-1, 1] as the judges' models want it."""
        wave = np.asarray(self.wave, np.float32)
        return np.clip(resample(wave, self.sample_rate_hz, RATE_HZ), -1.0, 1.0)


@dataclass(frozen=True)
class Sounds:
    """A voice to measure, and the clean one to measure it against where there is one."""

    clean: Voice | None
    other: Voice
    max_delay_seconds: float = 0.1

    @property
    def reference(self) -> Voice:
        """The clean voice, for metrics that need one."""
        assert self.clean is not None
        return self.clean

    @cached_property
    def delay(self) -> int:
        """By how many values the measured wave is late."""
        rate_hz = self.other.sample_rate_hz
        return delay_samples(self.reference.wave, self.other.wave, round(self.max_delay_seconds * rate_hz))

    @cached_property
    def aligned(self) -> tuple[Float[np.ndarray, "time"], Float[np.ndarray, "time"]]:
        """Both waves without their delay."""
        return align(self.reference.wave, self.other.wave, self.delay)

    @cached_property
    def aligned_16k(self) -> tuple[Float[np.ndarray, "time"], Float[np.ndarray, "time"]]:
        """Both waves without their delay, at 16 kHz."""
        clean, other = (Voice(wave, self.other.sample_rate_hz).at_16k for wave in self.aligned)
        return clean, other
