"""Whole degradations: drawn as one frozen value with all randomness, applied without any into a new array."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from miipher2.config.schema_data import DegradationConfig
from miipher2.data.degradations.additive import Babble, Colour, Hum, Noise
from miipher2.data.degradations.channel import Clipping, Codec, Dc, Level, PacketLoss, QuantileClipping
from miipher2.data.degradations.filters import BandLimit, LowPass, Resampling, Room
from miipher2.data.degradations.transform import Transform
from miipher2.data.pools import Pools

Wave = Float32[np.ndarray, "time"]

# By configuration key, in the order in which they are drawn: a new one goes last and changes no value of the others
# (with `order: random`, it does change their order, which is drawn after all values).
TRANSFORMS: dict[str, type[Transform[Any]]] = {
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
# In the order in which they are applied unless that is random: a voice in a room, a microphone, a line.
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


@dataclass(frozen=True)
class Degradation:
    """The transforms of one example, in the order in which they are applied; plain values only."""

    transforms: tuple[Transform[Any], ...]

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Return the transforms' values by configuration key, as JSON can hold them."""
        names = {transform: name for name, transform in TRANSFORMS.items()}
        return {names[type(transform)]: asdict(transform) for transform in self.transforms}

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, Any]]) -> "Degradation":
        """Return the degradation that `as_dict` described."""
        return cls(tuple(TRANSFORMS[name](**values[name]) for name in values))


def draw(rng: np.random.Generator, config: DegradationConfig, pools: Pools, samples: int) -> Degradation:
    """Draw a degradation for a wave of `samples` samples at 16 kHz.

    Every transform is drawn, whether it happens or not, so that a changed probability moves no other draw.
    """
    transforms = {}
    for name, transform in TRANSFORMS.items():
        section = getattr(config, name)
        happens = rng.random() < section.probability
        drawn = transform.draw(rng, section, pools, samples)
        if happens:
            transforms[name] = drawn
    # Drawn last and always, so that neither the order nor a further transform changes an earlier draw.
    positions = dict(zip(TRANSFORMS, rng.random(len(TRANSFORMS)), strict=True))
    names = sorted(transforms, key=positions.__getitem__ if config.order == "random" else CHAIN.index)
    return Degradation(tuple(transforms[name] for name in names))


def apply(clean: Wave, degradation: Degradation, pools: Pools) -> Wave:
    """Return a 16 kHz wave degraded: a new array of the same length, in [-1, 1]; silence stays silent.

    Where a transform exceeds full scale, the whole wave is turned down, as a recording level is, and not clipped.
    """
    degraded = np.array(clean, dtype=np.float32)
    for transform in degradation.transforms:
        if not degraded.any():  # silent from the start, or since every packet was lost
            return degraded
        degraded = transform.apply(degraded, pools)
        peak = np.abs(degraded).max()
        if peak > 1.0:
            degraded = degraded / peak
    return degraded


def required_pools(config: DegradationConfig) -> dict[str, str]:
    """Return the pools that a configuration reads, by the key of the transform that reads them."""
    return {
        name: transform.pool
        for name, transform in TRANSFORMS.items()
        if transform.pool is not None and getattr(config, name).probability > 0
    }


def check_pools(config: DegradationConfig, pools: Pools) -> None:
    """Check that no pool that the configuration reads is empty.

    Raises:
        ValueError: one is.
    """
    for name, pool in required_pools(config).items():
        if len(getattr(pools, pool)) == 0:
            raise ValueError(
                f"degradation.{name}: the pool of {pool} is empty; prepare some, or set its probability to 0"
            )
