"""Bootstrap confidence intervals of means, seeded. Knows numbers only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

from miipher2.rng import stream


@dataclass(frozen=True)
class Interval:
    """A mean, and the ends of its confidence interval; one value has no interval, and its ends are the mean."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """How often utterances are drawn anew, and the share of means that an interval holds."""

    resamples: int
    confidence: float
    seed: int

    def interval(self, values: Sequence[float]) -> Interval:
        """Return the percentile interval of the mean; every call draws the same utterances, so that calls are paired.

        Of a difference between two systems, give the differences of each utterance.
        """
        numbers = np.asarray(values, np.float64)
        mean = float(numbers.mean())
        if len(numbers) < 2:
            return Interval(mean, mean, mean)
        ends = bootstrap(
            (numbers,),
            np.mean,
            n_resamples=self.resamples,
            confidence_level=self.confidence,
            method="percentile",
            rng=stream(self.seed, "bootstrap"),
        ).confidence_interval
        return Interval(mean, float(ends.low), float(ends.high))
