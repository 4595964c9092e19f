"""Degradations: drawn first, all chance in one frozen value, and applied after, without chance, into a new array."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float32

from miipher2.data.kinds import KINDS, Kind
from miipher2.data.pools import Pools

Wave = Float32[np.ndarray, "time"]


@dataclass(frozen=True)
class Degradation:
    """What happens to one example, in the order of `KINDS`; plain values only."""

    parts: tuple[Kind, ...]

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Return the kinds and their values, as JSON takes them."""
        names = {kind: name for name, kind in KINDS.items()}
        return {names[type(part)]: asdict(part) for part in self.parts}

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, Any]]) -> "Degradation":
        """Return the degradation that `as_dict` described."""
        return cls(tuple(KINDS[name](**values[name]) for name in KINDS if name in values))


def draw(
    rng: np.random.Generator, settings: Mapping[str, Mapping[str, Any]], pools: Pools, samples: int = 32000
) -> Degradation:
    """Draw a degradation; a kind's values are drawn whether it happens or not, so that probabilities stay apart.

    Args:
        settings: for each kind its `probability` and the ranges that its `draw` takes by name; a kind left out never
            happens.
        samples: the length of what will be degraded, at 16 kHz.

    Raises:
        ValueError: a kind or a key is unknown, a number is out of range, or a pool is empty.
    """
    if unknown := [name for name in settings if name not in KINDS]:
        raise ValueError(f"degradation '{unknown[0]}' is not known; it should be one of {', '.join(KINDS)}")
    parts = []
    for name, kind in KINDS.items():
        if name in settings:
            probability, ranges = _checked(name, settings[name])
            happens = rng.random() < probability
            part = kind.draw(rng, pools, samples, **ranges)
            if happens:
                parts.append(part)
    return Degradation(tuple(parts))


def apply(clean: Wave, degradation: Degradation, pools: Pools) -> Wave:
    """Return `clean`, at 16 kHz, degraded: a new array of the same length, in [-1, 1], silent where all is silent.

    What a room or a noise lifts above full scale is turned down as a whole, as a recording level is, not clipped.
    """
    degraded = np.array(clean, dtype=np.float32)
    if not degraded.any():
        return degraded
    for part in degradation.parts:
        degraded = part.apply(degraded, pools)
        peak = np.abs(degraded).max()
        if peak > 1.0:
            degraded = degraded / peak
    return degraded


def _checked(name: str, values: Mapping[str, Any]) -> tuple[int | float, dict[str, Any]]:
    """Return a kind's probability and its other settings.

    Raises:
        ValueError: a key is unknown or missing, or the probability is none.
    """
    needed, optional = _keys(name)
    for key in values:
        if key not in needed and key not in optional:
            raise ValueError(f"degradation.{name}.{key} is not known; it should be one of {[*needed, *optional]}")
    for key in needed:
        if key not in values:
            raise ValueError(f"degradation.{name}.{key} is missing")
    probability = values["probability"]
    if not isinstance(probability, int | float) or not 0 <= probability <= 1:
        raise ValueError(f"degradation.{name}.probability is {probability}; it should be a number from 0 to 1")
    return probability, {key: value for key, value in values.items() if key != "probability"}


@cache
def _keys(name: str) -> tuple[list[str], list[str]]:
    """Return the keys that a kind's settings must have, and those that they may have: what its `draw` takes."""
    ranges = list(inspect.signature(KINDS[name].draw).parameters.values())[3:]
    needed = [item.name for item in ranges if item.default is item.empty]
    return ["probability", *needed], [item.name for item in ranges if item.default is not item.empty]
