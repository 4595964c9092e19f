"""What recording and sending do to speech: clipping, codecs, packet loss, level, DC."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from miipher2.audio import codecs
from miipher2.data.degradations.transform import (
    Range,
    Transform,
    Wave,
    checked_range,
    draw_choice,
    draw_seed,
    draw_uniform,
)
from miipher2.data.pools import RATE_HZ, Pools
from miipher2.rng import stream

PACKET_SAMPLES = 320  # 20 ms, as speech codecs on the Internet send
CONCEALMENTS = ("silence", "repeat")


@dataclass(frozen=True)
class Clipping(Transform):
    """Hard clipping at a part of the peak."""

    threshold: float

    @classmethod
    def draw(cls, rng: np.random.Generator, pools: Pools, samples: int, threshold: Range) -> "Clipping":
        """Take a threshold relative to the peak, uniform in a range."""
        return cls(draw_uniform(rng, "clipping.threshold", threshold, 1e-3, 1))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Cut off what is higher."""
        limit = np.float32(self.threshold) * np.abs(wave).max()
        return np.clip(wave, -limit, limit)


@dataclass(frozen=True)
class QuantileClipping(Transform):
    """Clipping of a share of the lowest values and of another of the highest, as Sidon clips."""

    lowest: float
    highest: float

    @classmethod
    def draw(cls, rng: np.random.Generator, pools: Pools, samples: int, share: Range) -> "QuantileClipping":
        """Take a share for each side, uniform in a range."""
        low, high = (draw_uniform(rng, "quantile_clipping.share", share, 0, 0.4) for _ in range(2))
        return cls(low, high)

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Cut off what is beyond."""
        ends = np.sort(wave)[[int(self.lowest * (len(wave) - 1)), int((1 - self.highest) * (len(wave) - 1))]]
        return np.clip(wave, *ends)


@dataclass(frozen=True)
class Codec(Transform):
    """A codec of `codecs.CODECS`, there and back; `bit_rate_kbps` is None where the codec has only one."""

    codec: str
    bit_rate_kbps: float | None

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        pools: Pools,
        samples: int,
        kinds: Sequence[str] = codecs.CODECS,
        bit_rate_kbps: Range = (16, 64),
    ) -> "Codec":
        """Take one of `kinds`, and for MP3, Vorbis and Opus a bit rate in kbit/s, uniform in octaves."""
        codec = draw_choice(rng, "codec.kinds", kinds, codecs.CODECS)
        low, high = checked_range("codec.bit_rate_kbps", bit_rate_kbps, 1, 512)
        rate = round(low * (high / low) ** float(rng.random()), 3)
        return cls(codec, rate if codec in codecs.RATED_CODECS else None)

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Code and decode in memory."""
        return codecs.through_codec(wave, RATE_HZ, self.codec, self.bit_rate_kbps)


@dataclass(frozen=True)
class PacketLoss(Transform):
    """Bursts of lost packets of 20 ms, left silent or filled with the last packet that came, fading."""

    share: float
    burst_seconds: float
    concealment: str
    seed: int

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        pools: Pools,
        samples: int,
        share: Range,
        burst_seconds: Range = (0.02, 0.12),
        concealments: Sequence[str] = CONCEALMENTS,
    ) -> "PacketLoss":
        """Take the share of time lost and a burst's length, each uniform in a range, and one of the concealments."""
        lost = draw_uniform(rng, "packet_loss.share", share, 0, 0.9)
        burst = draw_uniform(rng, "packet_loss.burst_seconds", burst_seconds, 0.02, 2)
        concealment = draw_choice(rng, "packet_loss.concealments", concealments, CONCEALMENTS)
        return cls(lost, burst, concealment, draw_seed(rng))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Lose the packets; bursts may touch or overlap, so that a little less than the share is lost."""
        packets = -(-len(wave) // PACKET_SAMPLES)
        burst = max(1, round(self.burst_seconds * RATE_HZ / PACKET_SAMPLES))
        rng = stream(self.seed, "packet_loss")
        lost = np.zeros(packets, dtype=bool)
        # The remainder of a burst is drawn, so that short waves lose their share too, on average.
        for start in rng.integers(packets, size=int(self.share * packets / burst + rng.random())):
            lost[start : start + burst] = True
        received = np.pad(wave, (0, packets * PACKET_SAMPLES - len(wave))).reshape(packets, PACKET_SAMPLES)
        for packet in np.flatnonzero(lost):
            is_repeated = self.concealment == "repeat" and packet > 0
            received[packet] = received[packet - 1] * np.float32(0.7) if is_repeated else 0.0
        return received.reshape(-1)[: len(wave)]


@dataclass(frozen=True)
class Level(Transform):
    """Another level of the recording."""

    gain_db: float

    @classmethod
    def draw(cls, rng: np.random.Generator, pools: Pools, samples: int, gain_db: Range) -> "Level":
        """Take a gain in dB, uniform in a range."""
        return cls(draw_uniform(rng, "level.gain_db", gain_db, -100, 100))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Scale."""
        return wave * np.float32(10 ** (self.gain_db / 20))


@dataclass(frozen=True)
class Dc(Transform):
    """A constant offset, of full scale."""

    offset: float

    @classmethod
    def draw(cls, rng: np.random.Generator, pools: Pools, samples: int, offset: Range) -> "Dc":
        """Take an offset, uniform in a range."""
        return cls(draw_uniform(rng, "dc.offset", offset, -1, 1))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Shift."""
        return wave + np.float32(self.offset)
