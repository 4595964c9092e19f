"""Degradations of recording and transmission: clipping, codecs, packet loss, level, DC offset."""

from dataclasses import dataclass

import numpy as np

from miipher2.audio.codecs import BIT_RATE_CODECS, apply_codec
from miipher2.config.schema_data import (
    HOP_SAMPLES,
    SAMPLE_RATE_HZ,
    ClippingConfig,
    CodecConfig,
    DcConfig,
    LevelConfig,
    PacketLossConfig,
    QuantileClippingConfig,
)
from miipher2.data.degradations.transform import Transform, Wave, draw_choice, draw_seed, draw_uniform
from miipher2.data.pools import Pools
from miipher2.rng import stream

PACKET_SAMPLES = HOP_SAMPLES  # 20 ms, as speech codecs on the Internet send
FADE = np.float32(0.7)  # of a repeated packet


@dataclass(frozen=True)
class Clipping(Transform[ClippingConfig]):
    """Hard clipping at a threshold relative to the peak."""

    threshold: float

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Clip."""
        limit = np.float32(self.threshold) * np.abs(wave).max()
        return np.clip(wave, -limit, limit)


@dataclass(frozen=True)
class QuantileClipping(Transform[QuantileClippingConfig]):
    """Clipping of a share of the lowest samples and a share of the highest, as in Sidon."""

    lowest: float
    highest: float

    @classmethod
    def draw(
        cls, rng: np.random.Generator, config: QuantileClippingConfig, pools: Pools, samples: int
    ) -> "QuantileClipping":
        """Draw a share for each end."""
        return cls(draw_uniform(rng, config.share), draw_uniform(rng, config.share))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Clip."""
        ends = np.sort(wave)[[int(self.lowest * (len(wave) - 1)), int((1 - self.highest) * (len(wave) - 1))]]
        return np.clip(wave, *ends)


@dataclass(frozen=True)
class Codec(Transform[CodecConfig]):
    """A codec of `CODECS`; `bit_rate_kbps` is None where it has only one."""

    codec: str
    bit_rate_kbps: float | None

    @classmethod
    def draw(cls, rng: np.random.Generator, config: CodecConfig, pools: Pools, samples: int) -> "Codec":
        """Draw a codec, and a bit rate that is uniform in octaves."""
        codec = draw_choice(rng, config.kinds)
        low, high = (float(end) for end in config.bit_rate_kbps)
        bit_rate_kbps = round(low * (high / low) ** float(rng.random()), 3)
        return cls(codec, bit_rate_kbps if codec in BIT_RATE_CODECS else None)

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Encode and decode in memory."""
        return apply_codec(wave, SAMPLE_RATE_HZ, self.codec, self.bit_rate_kbps)


@dataclass(frozen=True)
class PacketLoss(Transform[PacketLossConfig]):
    """Bursts of lost packets of 20 ms, left silent or concealed by the last packet received, fading."""

    share: float
    burst_seconds: float
    concealment: str
    seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator, config: PacketLossConfig, pools: Pools, samples: int) -> "PacketLoss":
        """Draw the share of time lost, the length of a burst, the concealment and the pattern's seed."""
        share, burst_seconds = draw_uniform(rng, config.share), draw_uniform(rng, config.burst_seconds)
        return cls(share, burst_seconds, draw_choice(rng, config.concealments), draw_seed(rng))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Lose the packets; bursts may overlap, so that slightly less than the share is lost."""
        packets = -(-len(wave) // PACKET_SAMPLES)
        burst = max(1, round(self.burst_seconds * SAMPLE_RATE_HZ / PACKET_SAMPLES))
        rng = stream(self.seed, "packet_loss")
        is_lost = np.zeros(packets, dtype=bool)
        # The fraction of a burst is rounded at random, so that short waves lose their share too, on average.
        for start in rng.integers(packets, size=int(self.share * packets / burst + rng.random())):
            is_lost[start : start + burst] = True
        received = np.pad(wave, (0, packets * PACKET_SAMPLES - len(wave))).reshape(packets, PACKET_SAMPLES)
        for packet in np.flatnonzero(is_lost):
            is_repeated = self.concealment == "repeat" and packet > 0
            received[packet] = received[packet - 1] * FADE if is_repeated else 0.0
        return received.reshape(-1)[: len(wave)]


@dataclass(frozen=True)
class Level(Transform[LevelConfig]):
    """Another recording level."""

    gain_db: float

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Scale."""
        return wave * np.float32(10 ** (self.gain_db / 20))


@dataclass(frozen=True)
class Dc(Transform[DcConfig]):
    """A constant offset, relative to full scale."""

    offset: float

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Shift."""
        return wave + np.float32(self.offset)
