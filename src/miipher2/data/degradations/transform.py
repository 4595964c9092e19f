"""The base class of a degradation's transforms, and how their values are drawn."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from jaxtyping import Float32

from miipher2.config.schema_data import TransformConfig
from miipher2.data.pools import Pools

Wave = Float32[np.ndarray, "time"]
Config = TypeVar("Config", bound=TransformConfig)
Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Transform(ABC, Generic[Config]):
    """One change to speech; its fields hold all randomness.

    Every draw takes the same number of values from `rng` whatever the configuration, so that a changed range moves no
    other transform.
    """

    pool: ClassVar[str | None] = None  # the pool that it reads, by its attribute of `Pools`

    @classmethod
    def draw(cls, rng: np.random.Generator, config: Config, pools: Pools, samples: int) -> "Transform[Any]":
        """Return a transform with values in the ranges of its configuration, for a wave of `samples` samples.

        Unless a transform draws otherwise, each of its fields is uniform in the range of its name.
        """
        return cls(*(draw_uniform(rng, getattr(config, each.name)) for each in fields(cls)))

    @abstractmethod
    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Return a new wave of the same length; `wave` is not silent and stays unchanged."""


def draw_seed(rng: np.random.Generator) -> int:
    """Return a seed for noise or a pattern that is made when the transform is applied."""
    return int(rng.random() * 2**32)


def draw_integer(rng: np.random.Generator, interval: Sequence[int]) -> int:
    """Return an integer from [low, high], both included."""
    low, high = interval
    return int(low) + int(rng.random() * (int(high) - int(low) + 1))


def draw_uniform(rng: np.random.Generator, interval: Sequence[float]) -> float:
    """Return a number from [low, high], uniformly distributed."""
    low, high = (float(end) for end in interval)
    return low + (high - low) * float(rng.random())


def draw_choice(rng: np.random.Generator, choices: Sequence[Choice]) -> Choice:
    """Return one of the choices, all equally likely."""
    return choices[int(rng.random() * len(choices))]


def fft_size(samples: int) -> int:
    """Return a fast size of a Fourier transform: 2, 3 or 5 times a power of two."""
    return min(factor << max(0, (-(-samples // factor) - 1).bit_length()) for factor in (2, 3, 5))
