"""Degradations: drawn first, all chance in one frozen value, and applied after, without chance, into a new array."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float32

from miipher2.data.degradations.additive import Babble, Colour, Hum, Noise
from miipher2.data.degradations.channel import Clipping, Codec, Dc, Level, PacketLoss, QuantileClipping
from miipher2.data.degradations.filters import BandLimit, LowPass, Resampling, Room
from miipher2.data.degradations.transform import Transform
from miipher2.data.pools import Pools

Wave = Float32[np.ndarray, "time"]

# In the order in which they are drawn: a new kind goes to the end, and moves no number of the others.
KINDS: dict[str, type[Transform]] = {
    "room": Room,
    "noise": Noise,
    "band_limit": BandLimit,
    "clipping": Clipping,
    "codec": Codec,
    "babble": Babble,
    "colour": Colour,
    "hum": Hum,
    "resampling": Resampling,
    "low_pass": LowPass,
    "quantile_clipping": QuantileClipping,
    "packet_loss": PacketLoss,
    "level": Level,
    "dc": Dc,
}
# In the order in which they happen where the order is not random: a voice in a room, a microphone, a line.
CHAIN = (
    "room",
    "babble",
    "noise",
    "colour",
    "hum",
    "band_limit",
    "resampling",
    "low_pass",
    "level",
    "dc",
    "clipping",
    "quantile_clipping",
    "codec",
    "packet_loss",
)
ORDERS = ("chain", "random")


@dataclass(frozen=True)
class Degradation:
    """What happens to one example, in this order; plain values only."""

    parts: tuple[Transform, ...]

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Return the kinds and their values, as JSON takes them, in the order in which they happen."""
        names = {kind: name for name, kind in KINDS.items()}
        return {names[type(part)]: asdict(part) for part in self.parts}

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, Any]]) -> "Degradation":
        """Return the degradation that `as_dict` described."""
        return cls(tuple(KINDS[name](**values[name]) for name in values))


def draw(rng: np.random.Generator, settings: Mapping[str, Any], pools: Pools, samples: int = 32000) -> Degradation:
    """Draw a degradation; a kind's values are drawn whether it happens or not, so that probabilities stay apart.

    Args:
        settings: for each kind its `probability` and the ranges that its `draw` takes by name; a kind left out never
            happens. `order` is `chain` (the default) or `random`.
        samples: the length of what will be degraded, at 16 kHz.

    Raises:
        ValueError: a kind or a key is unknown, a number is out of range, or a pool is empty.
    """
    if unknown := [name for name in settings if name not in KINDS and name != "order"]:
        raise ValueError(f"degradation '{unknown[0]}' is not known; it should be one of {', '.join(KINDS)}")
    parts = {}
    for name, kind in KINDS.items():
        if name in settings:
            probability, ranges = _checked(name, settings[name], pools)
            happens = rng.random() < probability
            part = kind.draw(rng, pools, samples, **ranges)
            if happens:
                parts[name] = part
    order = settings.get("order", "chain")
    if order not in ORDERS:
        raise ValueError(f"degradation.order is {order!r}; it should be one of {', '.join(ORDERS)}")
    # Drawn last and always: neither order nor a further kind alters what is drawn before.
    places = dict(zip(KINDS, rng.random(len(KINDS)), strict=True))
    names = sorted(parts, key=places.__getitem__ if order == "random" else CHAIN.index)
    return Degradation(tuple(parts[name] for name in names))


def apply(clean: Wave, degradation: Degradation, pools: Pools) -> Wave:
    """Return `clean`, at 16 kHz, degraded: a new array of the same length, in [-1, 1], silent where all is silent.

    What a room or a noise lifts above full scale is turned down as a whole, as a recording level is, not clipped.
    """
    degraded = np.array(clean, dtype=np.float32)
    for part in degradation.parts:
        if not degraded.any():  # silence, of its own or since every packet was lost: nothing is added to it
            return degraded
        degraded = part.apply(degraded, pools)
        peak = np.abs(degraded).max()
        if peak > 1.0:
            degraded = degraded / peak
    return degraded


def _checked(name: str, values: Mapping[str, Any], pools: Pools) -> tuple[int | float, dict[str, Any]]:
    """Return a kind's probability and its other settings.

    Raises:
        ValueError: a key is unknown or missing, the probability is none, or the pool that the kind takes from is empty.
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
    pool = KINDS[name].pool
    if pool is not None and probability > 0 and len(getattr(pools, pool)) == 0:
        raise ValueError(f"degradation.{name}: the pool of {pool} is empty; prepare some, or leave '{name}' out")
    return probability, {key: value for key, value in values.items() if key != "probability"}


@cache
def _keys(name: str) -> tuple[list[str], list[str]]:
    """Return the keys that a kind's settings must have, and those that they may have: what its `draw` takes."""
    ranges = list(inspect.signature(KINDS[name].draw).parameters.values())[3:]
    needed = [item.name for item in ranges if item.default is item.empty]
    return ["probability", *needed], [item.name for item in ranges if item.default is not item.empty]
