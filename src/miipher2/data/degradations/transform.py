"""What a kind of degradation is, and how its settings are checked."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32

from miipher2.data.pools import Pools

Wave = Float32[np.ndarray, "time"]
Range = Any  # [low, high] from a configuration; `checked_range` checks it


@dataclass(frozen=True)
class Transform(ABC):
    """One thing that happens to speech; its fields are all the chance in it.

    The arguments of `draw` after `samples` are the keys of the kind's settings. Every draw takes the same number of
    values from `rng`, whatever the settings.
    """

    pool: ClassVar[str | None] = None  # the attribute of `Pools` that it takes from, which must not be empty

    @classmethod
    @abstractmethod
    def draw(cls, *args: Any, **ranges: Any) -> "Transform":
        """Return a kind with its values drawn for `samples` values; ValueError names a setting that is no good."""

    @abstractmethod
    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Return a new wave of the same length; `wave` is not silent and is left as it is."""


def draw_seed(rng: np.random.Generator) -> int:
    """Return a number that later stands for a whole noise or a whole pattern: what is drawn stays small."""
    return int(rng.random() * 2**32)


def draw_whole(rng: np.random.Generator, name: str, values: Range, low: int, high: int) -> int:
    """Return a whole number in the range of the setting `name`, both ends included."""
    first, last = (int(end) for end in checked_range(name, values, low, high))
    return first + int(rng.random() * (last - first + 1))


def draw_uniform(rng: np.random.Generator, name: str, values: Range, low: int | float, high: int | float) -> float:
    """Return a number, uniform in the range of the setting `name`, which lies in [low, high]."""
    first, last = checked_range(name, values, low, high)
    return first + (last - first) * float(rng.random())


def draw_choice(rng: np.random.Generator, name: str, values: Any, allowed: Sequence[Any]) -> Any:
    """Return one of the values of the setting `name`.

    Raises:
        ValueError: there is none, or one is not allowed.
    """
    if not values or (unknown := [value for value in values if value not in allowed]):
        named = f"names {unknown[0]!r}" if values else "is empty"
        raise ValueError(f"degradation.{name} {named}; it should list some of {', '.join(map(str, allowed))}")
    return values[int(rng.random() * len(values))]


def checked_range(name: str, values: Range, low: int | float, high: int | float) -> tuple[float, float]:
    """Return a setting as its two ends.

    Raises:
        ValueError: it is no pair of numbers in order, from `low` to `high`.
    """
    is_pair = isinstance(values, Sequence) and len(values) == 2 and all(isinstance(v, int | float) for v in values)
    if not is_pair or not low <= values[0] <= values[1] <= high:
        raise ValueError(f"degradation.{name} is {values}; it should be [low, high] with numbers from {low} to {high}")
    return float(values[0]), float(values[1])


def fft_size(samples: int) -> int:
    """Return a size that a Fourier transform is quick at: 2, 3 or 5 times a power of two."""
    return min(factor << max(0, (-(-samples // factor) - 1).bit_length()) for factor in (2, 3, 5))
